"""`fl export`: what a task has come to, as files that others can use, and a card that says where it came
from.

The card is JSON for programs and Markdown for people: the task and its terms, who contributed how much in
which rounds, who was refused and why, the metrics that members stated, and the chain of CIDs from the task's
record to the model's bytes, so that whoever gets the files can check them against the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from node.commands.gate_options import adopted, found, gate_shown
from node.commands.learning_views import BLOB_SECONDS, path_of, task_id
from node.commands.options import complete_folder, home_option, json_option
from node.commands.output import print_json, print_line

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

CALLS_PAGE = 200
CARD_FORM = 1
GATE_REFUSED = "gate-refused"
"""The metric of a member that did not adopt the round's model (`federated.flower.gated_app`)."""
MODELS = ("npz", "safetensors")


@click.command("export")
@click.argument("task")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    required=True,
    shell_complete=complete_folder,
    help="Where the files go; made if it is not there.",
)
@click.option(
    "--format",
    "model",
    type=click.Choice(MODELS),
    default="npz",
    show_default=True,
    help="Of the parameters.",
)
@click.option(
    "--onnx",
    metavar="PATH",
    shell_complete=complete_folder,
    help="A Flower project whose [tool.roseforest] names onnx = 'module:function': the arrays as ONNX, too.",
)
@click.option("--mine", "own", is_flag=True, help="The model that this node's gate adopted last.")
@home_option
@json_option
def export(
    task: str, output: str, model: str, onnx: str | None, own: bool, home: str | None, as_json: bool
) -> None:
    """Write the model that TASK has come to, and a card that says where it came from.

    DIR gets model.npz or model.safetensors, card.json and card.md.
    """
    from pathlib import Path

    from node.api_client import ApiClient
    from node.commands.learning_result import write_file
    from node.errors import InvalidInput
    from node.home import open_home

    client = ApiClient(open_home(home))
    task = task_id(client, task)
    terms = client.get(path_of(task))
    standing = found(open_home(home), terms["id"])
    if own:
        result, data = adopted(client, open_home(home), task)
    else:
        result = client.get(f"{path_of(task)}/result")
        data = client.get_blob(result["parameters"], BLOB_SECONDS)
    arrays = _arrays(terms, data)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{output} cannot be made: {error.strerror}") from error
    files = {f"model.{model}": _encoded(arrays, model)}
    if onnx is not None:
        files["model.onnx"] = _onnx(onnx, arrays)
    calls = _calls(client, task) if terms["mode"] == "server-app" else []
    card = card_of(terms, result, calls, arrays, files)
    if standing is not None:
        card["gate"] = gate_shown(standing)
    files["card.json"] = (_json(card) + "\n").encode()
    files["card.md"] = markdown(card).encode()
    for name, content in files.items():
        write_file(str(folder / name), _writer(content))
    if as_json:
        print_json({"folder": output, "files": sorted(files), "card": card})
        return
    for name in sorted(files):
        print_line(str(folder / name))


def card_of(
    terms: Mapping[str, Any],
    result: Mapping[str, Any],
    calls: Sequence[Mapping[str, Any]],
    arrays: Arrays,
    files: Mapping[str, bytes],
) -> dict[str, Any]:
    """The card: pure, and the same for equal answers of the node."""
    from hashlib import sha256

    contributors = _by_calls(calls) if terms["mode"] == "server-app" else _by_rounds(terms["history"])
    return {
        "form": CARD_FORM,
        "task": {
            name: terms[name]
            for name in (
                "id",
                "name",
                "author",
                "mode",
                "strategy",
                "topology",
                "compression",
                "secure",
                "rounds",
                "max_examples",
                "max_abs",
            )
        },
        "rounds": result["round"],
        "parameters": {
            "cid": result["parameters"],
            "result": result["record"],
            "arrays": [
                {"name": name, "dtype": str(values.dtype), "shape": list(values.shape)}
                for name, values in arrays.items()
            ],
            "count": sum(values.size for values in arrays.values()),
        },
        "files": {name: sha256(content).hexdigest() for name, content in sorted(files.items())},
        "contributors": contributors,
        "bytes": sum(one["bytes"] for one in contributors),
        "metrics": _metrics(terms["history"]),
        "chain": [
            {name: one[name] for name in ("round", "result", "parameters", "bytes")}
            for one in terms["history"]
        ]
        or [
            {
                "call": one["number"],
                "record": one["call"],
                "by": one["coordinator"],
                "bytes": sum(blob["size"] for blob in (*one["messages"], *one["answers"])),
            }
            for one in calls
        ],
    }


def markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    task, parameters = card["task"], card["parameters"]
    lines = [
        f"# {_inline(task['name'])}",
        "",
        f"A model of {parameters['count']:,} parameters in {len(parameters['arrays'])} arrays, learned by "
        f"{len(card['contributors'])} agents in {card['rounds']} {_steps(task)}.",
        "",
        "| | |",
        "|---|---|",
        f"| task | `{task['id']}` |",
        f"| published by | `{task['author']}` |",
        f"| mode, topology, strategy | {task['mode']}, {task['topology']}, {_inline(task['strategy'])} |",
        f"| compression | {_inline(task['compression'])}, {card['bytes']:,} bytes of {_parts(task)} in all |",
        *([f"| updates | {_sums(task['secure'])} |"] if task["secure"] else []),
        f"| parameters | `{parameters['cid']}` |",
        f"| result | `{parameters['result']}` |",
        *(f"| {name}, SHA-256 | `{digest}` |" for name, digest in card["files"].items()),
        "",
        "## Contributors",
        "",
        "| agent | contributions | examples, in all | bytes, in all | refused |",
        "|---|---|---|---|---|",
        *(
            f"| `{one['agent']}` | {one['contributions']} | {one['examples'] or ''} | {one['bytes']:,} "
            f"| {', '.join(map(_inline, one['refused']))} |"
            for one in card["contributors"]
        ),
        "",
        "Examples and metrics are what members stated; nobody can check them. `roseforest fl audit` with the "
        "id of the task computes the model again from the signed records.",
        "",
    ]
    gated = [
        f"`{one['agent']}` (round {_numbers(one)})" for one in card["contributors"] if one["gate_refused"]
    ]
    if gated:
        lines += [f"Did not adopt the model that a round began with: {', '.join(gated)}.", ""]
    if "gate" in card:
        gate = card["gate"]
        lines += [
            f"The gate of the node that wrote this adopted round {gate['round']}'s model last, with "
            f"{_inline(gate['metric'])} {gate['value']:.6g} on its own data.",
            "",
        ]
    if card["metrics"]:
        lines += ["## Metrics", "", "| round | metric | mean over contributors |", "|---|---|---|"]
        lines += [
            f"| {one['round']} | {_inline(name)} | {value:.6g} |"
            for one in card["metrics"]
            for name, value in one["mean"].items()
        ]
        lines.append("")
    return "\n".join(lines)


def _sums(least: int) -> str:
    return f"summed under masks, in groups of {least} or more: nobody saw one alone"


def _by_rounds(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for one in history:
        for member in one["contributors"]:
            mine = found.setdefault(member["agent"], _nothing(member["agent"]))
            mine["contributions"] += 1
            mine["examples"] += member["examples"]
            mine["bytes"] += member["bytes"]
            if member["metrics"].get(GATE_REFUSED):
                mine["gate_refused"].append(one["round"])
        for member in one["refused"]:
            mine = found.setdefault(member["agent"], _nothing(member["agent"]))
            mine["refused"].append(f"round {one['round']}: {member['reason']}")
    return [found[agent] for agent in sorted(found)]


def _by_calls(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for one in calls:
        for answer in one["answers"]:
            mine = found.setdefault(answer["agent"], _nothing(answer["agent"]))
            mine["contributions"] += 1
            mine["bytes"] += answer["size"]
    return [found[agent] for agent in sorted(found)]


def _nothing(agent: str) -> dict[str, Any]:
    return {"agent": agent, "contributions": 0, "examples": 0, "bytes": 0, "refused": [], "gate_refused": []}


def _metrics(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each round the means of the metrics that all of its contributors stated, weighted by examples."""
    found = []
    for one in history:
        members = one["contributors"]
        names = set.intersection(*(set(member["metrics"]) for member in members)) if members else set()
        weight = sum(member["examples"] for member in members)
        mean = {
            name: sum(member["metrics"][name] * member["examples"] for member in members) / weight
            for name in sorted(names)
        }
        if mean:
            found.append({"round": one["round"], "mean": mean})
    return found


def _arrays(terms: Mapping[str, Any], data: bytes) -> Arrays:
    import io

    import numpy as np

    from chain.learning_task import Array
    from federated.update import decode

    if terms["mode"] == "server-app":
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    specs = [Array(item["name"], item["dtype"], tuple(item["shape"])) for item in terms["arrays"]]
    values = decode(specs, data, terms["max_abs"])
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}


def _encoded(arrays: Arrays, model: str) -> bytes:
    if model == "npz":
        from federated.flower.npz import npz

        return npz(arrays)
    from federated.flower.errors import FlowerMissing

    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise FlowerMissing("this needs safetensors: install it with pip install 'roseforest[fl]'") from error
    return bytes(save(dict(arrays)))


def _onnx(path: str, arrays: Arrays) -> bytes:
    """What the project's own function makes of the arrays; the project's code runs here, for its user."""
    import importlib
    import sys
    import tomllib

    from federated.flower.errors import ProjectError
    from federated.flower.project import read_project

    root = read_project(path).root
    text = (root / "pyproject.toml").read_text("utf-8")
    reference = tomllib.loads(text).get("tool", {}).get("roseforest", {}).get("onnx", "")
    module, _, name = str(reference).partition(":")
    if not (module and name):
        raise ProjectError("the project names no onnx = 'module:function' in [tool.roseforest]")
    sys.path.insert(0, str(root))
    try:
        made = getattr(importlib.import_module(module), name)(dict(arrays))
    except (ImportError, AttributeError) as error:
        raise ProjectError(f"{reference} cannot be loaded: {error}") from error
    finally:
        sys.path.remove(str(root))
    if not isinstance(made, bytes):
        raise ProjectError(f"{reference} returned a {type(made).__name__}, not the bytes of an ONNX model")
    return made


def _calls(client: Any, task: str) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    while True:
        page = client.get(f"{path_of(task)}/calls", after=len(calls), limit=CALLS_PAGE)["calls"]
        calls += page
        if not page:
            return calls


def _writer(content: bytes) -> Any:
    def write(file: IO[bytes]) -> None:
        file.write(content)

    return write


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False)


def _inline(text: str) -> str:
    """A stranger's text within a table or a heading of Markdown: no markup of its own, one line."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>|#!~" else char for char in " ".join(str(text).split()))


def _numbers(contributor: Mapping[str, Any]) -> str:
    return ", ".join(map(str, contributor["gate_refused"]))


def _parts(task: Mapping[str, Any]) -> str:
    return "answers" if task["mode"] == "server-app" else "updates"


def _steps(task: Mapping[str, Any]) -> str:
    return "calls" if task["mode"] == "server-app" else "rounds"
