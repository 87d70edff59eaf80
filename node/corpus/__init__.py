"""Corpora that a node can import: Python's own docstrings, and JSON-lines files.

`entries` yields the standard library's docstrings, `read_json_lines` the lines of a file, each as a
`CorpusEntry` whose `import_key` lets an interrupted import go on where it stopped.
"""

from node.corpus.entry import CorpusEntry
from node.corpus.json_lines import BadLine, GoodLine, read_json_lines
from node.corpus.stdlib import entries

__all__ = ["BadLine", "CorpusEntry", "GoodLine", "entries", "read_json_lines"]
