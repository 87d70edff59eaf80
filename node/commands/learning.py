"""`fl`: learning tasks. The group of its commands; each has a module, or is a view of what the node knows.

Importing this imports all of them, for `--help`; what is heavy they import when they run.
"""

from __future__ import annotations

import click

from node.commands.learning_create import create
from node.commands.learning_result import result
from node.commands.learning_run import run
from node.commands.learning_views import audit, join, leave, list_tasks, log, status, stop
from node.commands.model_card import export


@click.group("fl")
def fl() -> None:
    """Learning tasks: models that nodes train together, each on its own data."""


for command in (create, run, result, list_tasks, join, leave, status, log, audit, stop, export):
    fl.add_command(command)
