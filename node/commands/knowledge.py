"""`add`, `get` and `query`: what a node is for."""

from __future__ import annotations

from typing import Any

import click

from node.commands.asking import (
    EXCERPT_LINES,
    EXCERPT_WIDTH,
    count,
    print_answer,
    question_of,
    question_options,
)
from node.commands.exit_codes import ExitCode
from node.commands.field_options import field_options, fields_body
from node.commands.options import complete_file, home_option, json_option
from node.commands.output import INDENT, excerpt, in_line, print_json, print_line

MAX_STDIN = 128 * 1024
"""Bytes read of a text from stdin; longer than any entry may be."""
MAX_VECTOR_FILE = 1 << 20


@click.command()
@click.argument("text", default="-")
@click.option("--tag", "tags", multiple=True, help="A tag; may be given several times.")
@click.option("--domain", help="The field of knowledge.")
@click.option("--confidence", type=click.FloatRange(0, 1), help="How sure you are, from 0 to 1.")
@click.option("--citation", "citations", multiple=True, help="A source; may be given several times.")
@click.option(
    "--vector",
    metavar="FILE",
    shell_complete=complete_file,
    help="JSON list of numbers, where the network takes the caller's vectors.",
)
@field_options
@click.option(
    "--relation",
    "relations",
    nargs=2,
    multiple=True,
    metavar="PREDICATE ID",
    help="Another entry, and how this one relates to it: supports, contradicts, extends, …",
)
@click.option(
    "--wait-receipts",
    "receipts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Wait until N other nodes have signed that they judged and hold it.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Wait for receipts at most so many seconds.",
)
@click.option("--private", is_flag=True, help="For you alone: encrypted, and never sent to anybody.")
@click.option("--backup", is_flag=True, help="With --private: let other nodes keep the sealed text.")
@home_option
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    /,
    text: str,
    private: bool,
    backup: bool,
    tags: tuple[str, ...],
    domain: str | None,
    confidence: float | None,
    citations: tuple[str, ...],
    vector: str | None,
    receipts: int | None,
    timeout: float,
    relations: tuple[tuple[str, str], ...],
    home: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Add an entry; TEXT, or - for standard input.

    Its id is printed. A TEXT that begins with a dash stands behind --.
    """
    from node.api_client import ApiClient
    from node.home import open_home

    client = ApiClient(open_home(home))
    entry: dict[str, Any] = {"text": read_text(text), "tags": list(tags), "citations": list(citations)}
    entry |= {"domain": domain, "confidence": confidence, "vector": read_vector(vector)}
    entry |= fields_body(**fields)
    entry["references"] = [{"predicate": predicate, "target": target} for predicate, target in relations]
    if receipts is not None:
        from node.commands.receipts import check_wanted

        check_wanted(client, receipts)
    if private and receipts is not None:
        raise click.UsageError("nobody signs for a private entry: leave --wait-receipts out")
    if backup and not private:
        raise click.UsageError("--backup goes with --private: others hold a public entry anyway")
    if private:
        entry |= {"private": True, "backup": backup}
    answer = client.post("/v1/entries", entry)
    if not as_json:
        print_line(answer["id"])
    if receipts is not None:
        from node.commands.receipts import await_receipts

        answer |= await_receipts(client, answer["id"], receipts, timeout)
    if as_json:
        print_json(answer)
    if not answer.get("reached", True):
        ctx.exit(ExitCode.PARTLY_DONE)


@click.command()
@click.option("--after", metavar="ID", help="Those with ids above this one.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many.")
@home_option
@json_option
def private(after: str | None, limit: int, home: str | None, as_json: bool) -> None:
    """List your private entries, by id."""
    from node.api_client import ApiClient
    from node.home import open_home

    more: dict[str, Any] = {} if after is None else {"after": after}
    answer = ApiClient(open_home(home)).get("/v1/private", limit=limit, **more)
    if as_json:
        print_json(answer)
        return
    for entry in answer["entries"]:
        print_line(entry["id"])
        print_line(excerpt(entry["text"], EXCERPT_LINES, EXCERPT_WIDTH))


@click.command()
@click.argument("id")
@click.option("--provenance", is_flag=True, help="With the signed records that the entry is made of.")
@home_option
@json_option
def get(id: str, provenance: bool, home: str | None, as_json: bool) -> None:
    """Show an entry by its ID."""
    from node.api_client import ApiClient, path_segment
    from node.home import open_home

    client = ApiClient(open_home(home))
    answer = client.get(f"/v1/entries/{path_segment(id)}", provenance=str(provenance).lower())
    if as_json:
        print_json(answer)
        return
    names = ("private", "deleted", "retracted", "conflict")
    flags = ", ".join(name for name in names if answer[name])
    print_line(f"{answer['id']} ({flags})" if flags else answer["id"])
    print_line(f"author     {answer['author']}")
    for name in ("title", "type", "domain", "subdomains", "format", "confidence", "tags", "citations"):
        value = answer[name]
        if value not in (None, []):
            print_line(f"{name:<10} {in_line(', '.join(value) if isinstance(value, list) else str(value))}")
    if answer["generated_by"] is not None:
        print_line(f"written by {in_line(answer['generated_by'])}")
    votes = answer["votes"]
    if votes["ballots"]:
        print_line(f"votes      {votes['up']} up, {votes['down']} down")
    trust = answer["trust"]
    if trust is not None and trust["rooted"] + trust["strangers"]:
        print_line(
            f"trust      {trust['score']:.2f}, between {trust['low']:.2f} and {trust['high']:.2f}: "
            f"{count(trust['rooted'], 'voice')} of your trust root, {count(trust['strangers'], 'other')}"
        )
    print_line(f"version    {answer['version_id']}")
    print_line()
    gone = "(not shown: its author is under a warrant)" if answer["excluded"] else "(erased)"
    print_line(answer["text"] if answer["text"] is not None else gone)
    for value in answer["values"][1:]:
        print_line()
        print_line(f"in conflict with this, by {value['author']}:")
        print_line(value["text"])
    _print_fields(answer)
    for gone in answer["erased"]:
        print_line()
        print_line(f"(a text by {gone['author']} was erased by its author at {gone['at']})")
    if answer["delete_overruled"]:
        print_line()
        print_line("(somebody deleted the entry without having seen this text)")
    for one in answer["excluded"]:
        print_line(
            f"left out: record {one['record']} by {one['author']}, under a warrant from seq {one['since']} on"
        )
    for ballot in votes["ballots"]:
        why = f": {in_line(ballot['reason'])}" if ballot["reason"] else ""
        behalf = ballot["on_behalf_of"]
        of = "" if behalf is None else f" for {in_line(behalf['name'])}"
        print_line(f"vote {'up' if ballot['value'] > 0 else 'down'} by {ballot['agent']}{of}{why}")
    if answer["records"]:
        print_line()
    for record in answer["records"] or ():
        print_line(f"record {record['id']} {record['kind']} seq {record['seq']} by {record['author']}")
        if record["validated_by"] is not None:
            print_line(f"{INDENT}validated by {count(len(record['validated_by']), 'other node')}")
            for holder in record["validated_by"]:
                print_line(f"{INDENT * 2}{holder}")


def _print_fields(answer: dict[str, Any]) -> None:
    """What an entry says beside its text, and what of that is in conflict."""
    import json

    reasoning = answer["reasoning"]
    if reasoning is not None:
        print_line()
        print_line(f"reasoning: {in_line(reasoning['method'])}")
        for number, step in enumerate(reasoning["steps"], 1):
            print_line(f"{INDENT}{number}. {in_line(step)}")
        for one in reasoning["alternatives"]:
            print_line(f"{INDENT}or: {in_line(one['text'])}")
    for one in answer["statements"]:
        print_line(f"states ({one['confidence']}): {in_line(one['text'])}")
    for one in answer["references"]:
        if one["target"] is not None:
            print_line(f"{in_line(one['predicate'])} {one['target']}")
        else:
            link = f" <{in_line(one['link'])}>" if one["link"] else ""
            print_line(f"source: {in_line(one['source'])}{link}")
    for one in answer["assessments"]:
        print_line(f"confidence {one['confidence']} by {one['agent']}")
    for name, values in answer["field_values"].items():
        for one in values[1:]:
            said = json.dumps(one["value"], ensure_ascii=False)
            print_line(f"{name} in conflict, by {one['author']}: {said}")


@click.command()
@click.argument("text", required=False)
@click.option("-k", "k", type=click.IntRange(1, 100), default=10, show_default=True, help="How many hits.")
@question_options
@click.option(
    "--vector",
    metavar="FILE",
    shell_complete=complete_file,
    help="Ask with a vector (JSON list) instead of TEXT, or for what TEXT means.",
)
@home_option
@json_option
def query(
    text: str | None, k: int, vector: str | None, home: str | None, as_json: bool, **options: Any
) -> None:
    """Ask the network by meaning, by words, or both; TEXT, or - for standard input."""
    both = text is not None and vector is not None and options["mode"] in ("hybrid", "lexical")
    if (text is None) == (vector is None) and not both:
        raise click.UsageError("give either TEXT or --vector FILE, or both with --mode hybrid or lexical")
    question = question_of(k, **options)
    from node.api_client import LONG_SECONDS, ApiClient
    from node.home import open_home

    client = ApiClient(open_home(home))
    if text is not None:
        question["text"] = read_text(text)
    if vector is not None:
        question["vector"] = read_vector(vector)
    answer = client.post("/v1/query", question, LONG_SECONDS)
    if as_json:
        print_json(answer)
    else:
        print_answer(answer)


def read_text(text: str, path: str | None = None) -> str:
    """The text as given; that of the file `path`, if given, or of standard input for a dash."""
    from node.errors import InvalidInput

    if path is not None:
        text = _file(path)
    elif text == "-":
        text = _standard_input()
    if not text.strip():
        raise InvalidInput("the text is empty")
    return text


def _standard_input() -> str:
    import sys

    if sys.stdin.isatty():
        print_line("type the text; Ctrl-D on a line of its own ends it", err=True)
    return _decoded(sys.stdin.buffer.read(MAX_STDIN + 1), "on standard input")


def _file(path: str) -> str:
    from node.errors import InvalidInput

    try:
        with open(path, "rb") as file:
            return _decoded(file.read(MAX_STDIN + 1), f"in {path}")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def _decoded(data: bytes, where: str) -> str:
    from node.errors import InvalidInput

    if len(data) > MAX_STDIN:
        raise InvalidInput(f"the text {where} is longer than {MAX_STDIN} bytes")
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the text {where} is not UTF-8 at byte {error.start}") from error


def read_vector(path: str | None) -> Any:
    """The JSON list of numbers in a file; None without one."""
    if path is None:
        return None
    import json

    from node.errors import InvalidInput

    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(MAX_VECTOR_FILE + 1))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
    if not isinstance(value, list):
        raise InvalidInput(f"{path} is not a JSON list of numbers")
    return value
