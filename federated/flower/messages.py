"""Flower's messages from ours and back; the one module that relies on how flwr makes them.

A train message holds the round's parameters as one ArrayRecord and the template's ConfigRecords; its reply
has to hold one ArrayRecord with the same arrays and the number of examples in a MetricRecord. Apps built on
`client_fn` (NumPyClient) read and write the same under the names of Flower's older interface, which the app's
own kind decides, not the template. `Message(metadata=Metadata(...))` is an internal of flwr: the range of its
versions in pyproject.toml is pinned, and a contract test fails when a version in it does this another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    Metadata,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from chain.learning_task import Array
from federated.flower.errors import AppFailed
from federated.flower.template import Records, Template, in_round

TASK_ID = 1
SERVER_ID = 1
"""What Flower calls the server's node."""
EVALUATE = "evaluate"
LEGACY_WEIGHT = "num_examples"
"""The only key of a `client_fn` app's record of the number of examples."""
MAX_SHOWN = 5
"""Array names shown in a complaint."""

Arrays = dict[str, "np.ndarray[Any, Any]"]


def identify(run_id: int, node_id: int) -> None:
    """Tell flwr who runs here; a `Message` that a ServerApp makes asks for it."""
    TaskIdentity.task_id = TASK_ID
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id


def new_context(
    run_id: int, node_id: int, node_config: Mapping[str, Any], run_config: Mapping[str, Any]
) -> Context:
    """A context with an empty state; `client_state` fills it."""
    return Context(
        run_id=run_id,
        node_id=node_id,
        node_config=dict(node_config),
        state=RecordDict(),
        run_config=dict(run_config),
    )


def is_legacy(app: ClientApp) -> bool:
    """Whether the app was made from a `client_fn`."""
    return app._call is not None


def evaluates(app: ClientApp) -> bool:
    """Whether the app says what to do on evaluate; of a `client_fn` app only a reply tells."""
    return is_legacy(app) or f"{EVALUATE}.default" in app._registered_funcs


def train_message(
    app: ClientApp, template: Template, arrays: Arrays, number: int, context: Context, now: float, ttl: float
) -> Message:
    """The message that asks `app` to train in round `number`; `now` in Unix time, `ttl` in seconds."""
    kind, records = ("fitins", template.train_records) if is_legacy(app) else ("", template.train_records)
    return _message(
        _content(kind, template, arrays, records, number), template.train, number, context, now, ttl
    )


def evaluate_message(
    app: ClientApp, template: Template, arrays: Arrays, number: int, context: Context, now: float, ttl: float
) -> Message:
    """The message that asks `app` to evaluate the parameters after round `number`."""
    kind = "evaluateins" if is_legacy(app) else ""
    content = _content(kind, template, arrays, template.evaluate_records, number)
    return _message(content, EVALUATE, number, context, now, ttl)


def run_message(
    message_type: str,
    group: str,
    content: RecordDict,
    context: Context,
    now: float,
    ttl: float,
) -> Message:
    """A message of a ServerApp's run to this node, as the app sent it."""
    metadata = Metadata(
        run_id=context.run_id,
        message_id=f"{message_type}-{group}",
        src_node_id=SERVER_ID,
        dst_node_id=context.node_id,
        reply_to_message_id="",
        group_id=group,
        created_at=now,
        ttl=ttl,
        message_type=message_type,
    )
    return Message(content, metadata=metadata)


def content_of(reply: Any) -> RecordDict:
    """What a ClientApp answered; raises `AppFailed` where that is no content."""
    if not isinstance(reply, Message):
        raise AppFailed(f"the ClientApp returned a {type(reply).__name__}, not a Message")
    if reply.has_error():
        raise AppFailed(f"it replied with an error: {reply.error.reason or reply.error.code}")
    return reply.content


def trained(
    reply: Any, template: Template, expected: Sequence[Array]
) -> tuple[list[np.ndarray[Any, Any]], int, dict[str, float]]:
    """The arrays of a train reply in the order of `expected`, the examples, and the metrics.

    Floating-point arrays of another width are converted. Raises `AppFailed` for anything else.
    """
    content = _content_of(reply, "train")
    if len(content.array_records) != 1:
        raise AppFailed(f"its reply holds {len(content.array_records)} ArrayRecords, not one")
    (record,) = content.array_records.values()
    examples, metrics = _metrics(content, template.weight)
    if examples is None:
        raise AppFailed(f"its reply has no metric {template.weight!r}: on how many examples was it trained?")
    if examples != int(examples) or examples < 1:
        raise AppFailed(f"its reply says {template.weight} = {examples}; it takes a whole number from 1")
    return _in_order(record, expected), int(examples), metrics


def evaluated(reply: Any, template: Template) -> dict[str, float]:
    """The metrics of an evaluate reply, the number of examples among them. Raises `AppFailed`."""
    content = _content_of(reply, "evaluate")
    examples, metrics = _metrics(content, template.weight)
    return metrics if examples is None else {**metrics, template.weight: examples}


def array_of(record: ArrayRecord) -> Arrays:
    """The arrays of a record by name. Raises `AppFailed` for one that is no numpy array."""
    arrays: Arrays = {}
    for name, array in record.items():
        try:
            arrays[name] = array.numpy()
        except (TypeError, ValueError, EOFError) as error:
            raise AppFailed(f"array {name!r} cannot be read: {error}") from error
    return arrays


def _content(kind: str, template: Template, arrays: Arrays, records: Records, number: int) -> RecordDict:
    record = ArrayRecord({name: FlowerArray(np.asarray(array, order="C")) for name, array in arrays.items()})
    content = RecordDict()
    sent = in_round(records, number)
    if kind:
        content[f"{kind}.parameters"] = record
        merged = {key: value for values in sent.values() for key, value in values.items()}
        content[f"{kind}.config"] = ConfigRecord(merged)
        return content
    content[template.arrays] = record
    for name, values in sent.items():
        content[name] = ConfigRecord(values)
    return content


def _message(
    content: RecordDict, message_type: str, number: int, context: Context, now: float, ttl: float
) -> Message:
    return run_message(message_type, str(number), content, context, now, ttl)


def _content_of(reply: Any, action: str) -> RecordDict:
    if not isinstance(reply, Message):
        raise AppFailed(f"its {action} function returned a {type(reply).__name__}, not a Message")
    if reply.has_error():
        raise AppFailed(f"it replied with an error: {reply.error.reason or reply.error.code}")
    content = reply.content
    for name, record in content.config_records.items():
        # How a `client_fn` app says that it does not do what was asked, or failed.
        if name.endswith(".status") and record.get("code", 0) != 0:
            raise AppFailed(f"it replied with the status {record.get('message') or record.get('code')}")
    return content


def _metrics(content: RecordDict, weight: str) -> tuple[float | None, dict[str, float]]:
    """The number of examples and the finite scalar metrics; of two with one name the last counts."""
    examples: float | None = None
    metrics: dict[str, float] = {}
    for name, record in content.metric_records.items():
        for key, value in record.items():
            if isinstance(value, list) or not np.isfinite(value):
                continue
            if key == weight or (key == LEGACY_WEIGHT and name.endswith(f".{LEGACY_WEIGHT}")):
                examples = float(value)
            else:
                metrics[key] = float(value)
    for name, record in content.config_records.items():
        if name.endswith(".metrics"):
            for key, value in record.items():
                if isinstance(value, int | float) and np.isfinite(value):
                    metrics[key] = float(value)
    return examples, metrics


def _in_order(record: ArrayRecord, expected: Sequence[Array]) -> list[np.ndarray[Any, Any]]:
    arrays = array_of(record)
    names = [term.name for term in expected]
    if set(arrays) != set(names):
        # A `client_fn` app numbers its arrays, whatever their names were.
        if list(arrays) != [str(place) for place in range(len(names))]:
            raise AppFailed(f"its reply holds the arrays {_shown(arrays)}; the task has {_shown(names)}")
        arrays = dict(zip(names, arrays.values(), strict=True))
    ordered = []
    for term in expected:
        array = arrays[term.name]
        if array.shape != term.shape:
            raise AppFailed(
                f"array {term.name!r} came back with shape {array.shape}; the task has {term.shape}"
            )
        if not np.can_cast(array.dtype, term.dtype, "same_kind"):
            raise AppFailed(f"array {term.name!r} came back as {array.dtype}; the task has {term.dtype}")
        ordered.append(np.asarray(array, dtype=np.dtype(term.dtype), order="C"))
    return ordered


def _shown(names: Any) -> str:
    shown = list(names)
    more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
    return (", ".join(repr(name) for name in shown[:MAX_SHOWN]) or "none") + more
