"""`fl result`: the model that a task has come to, as an .npz file.

The file is written whole or not at all, so that nobody loads half a model. A model of peer rounds is decoded
by the task's own terms; the result of a ServerApp's run is an .npz file already.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click

from node.commands.gate_options import adopted
from node.commands.learning_views import BLOB_SECONDS, path_of, task_id
from node.commands.options import complete_file, home_option, json_option
from node.commands.output import print_json, print_line


@click.command()
@click.argument("task")
@click.option("--round", "number", type=click.IntRange(1), metavar="N", help="Of this round [the last].")
@click.option(
    "-o", "--output", metavar="FILE.npz", shell_complete=complete_file, help="Write the parameters here."
)
@click.option("--mine", "own", is_flag=True, help="The model that this node's gate adopted last.")
@home_option
@json_option
def result(
    task: str, number: int | None, output: str | None, own: bool, home: str | None, as_json: bool
) -> None:
    """The parameters that a task has come to, as an .npz file for numpy.load.

    With --mine those that this node's gate adopted last (fl run --gate).
    """
    from node.api_client import ApiClient
    from node.home import open_home

    if own and number is not None:
        raise click.UsageError("--mine says itself of which round: leave --round out")
    client = ApiClient(open_home(home))
    task = task_id(client, task)
    kept: bytes | None = None
    if own:
        answer, kept = adopted(client, open_home(home), task)
    else:
        answer = client.get(f"{path_of(task)}/result", **({} if number is None else {"round": number}))
    if output is not None:
        terms = client.get(path_of(task))
        answer["file"] = output
        data = client.get_blob(answer["parameters"], BLOB_SECONDS) if kept is None else kept
        write = _npz_of(terms, data)
        answer["bytes"] = write_file(output, write)
    if as_json:
        print_json(answer)
        return
    print_line(f"round       {answer['round']}")
    print_line(f"parameters  {answer['parameters']}")
    print_line(f"record      {answer['record']}")
    if output is not None:
        print_line(f"written     {output}")


def _npz_of(terms: dict[str, Any], data: bytes) -> Callable[[IO[bytes]], None]:
    """What writes a model as .npz. The result of a ServerApp's run is one already."""
    import zipfile

    import numpy as np

    from chain.learning_task import Array
    from federated.update import decode

    if terms["mode"] == "server-app":
        return lambda file: _drop(file.write(data))
    specs = [Array(item["name"], item["dtype"], tuple(item["shape"])) for item in terms["arrays"]]
    values = decode(specs, data, terms["max_abs"])

    def write(file: IO[bytes]) -> None:
        # Not numpy's savez: names are its keywords, and an array may be called like one of its own.
        with zipfile.ZipFile(file, "w") as archive:
            for spec, value in zip(specs, values, strict=True):
                with archive.open(f"{spec.name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, value, allow_pickle=False)

    return write


def _drop(_written: int) -> None:
    pass


def write_file(output: str, write: Callable[[IO[bytes]], None]) -> int:
    """Write a file, whole or not at all; returns its bytes."""
    import os
    import tempfile

    from node.errors import InvalidInput

    target = Path(output)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
                # A temporary file is its owner's alone; a result is an ordinary file.
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise InvalidInput(f"{output} cannot be written: {error.strerror}") from error
    return size


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask
