"""What a ServerApp sends to train and to evaluate, as one text that a task's config carries.

Every member builds the messages of every round from it, so that a ClientApp gets what its own ServerApp would
have sent it. Parameters are not in it: they are the round's. Texts of strangers are read here, so the form is
closed: JSON with known keys and scalar values or lists of them, bounded, bytes as base64. In each round the
values that count rounds (`ROUND_KEYS`) are replaced by its number; everything else stays as in round 1.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from federated.flower.errors import TemplateError

CONFIG_KEY = "flower"
"""Where a task's config holds the text."""
FORM = 1
MAX_TEXT = 15_000
"""Characters of the text; a task record is small."""
MAX_NAME = 200
ROUND_KEYS = frozenset({"server-round", "server_round", "current-round", "current_round"})
"""Names under which strategies, Flower's own and those of its examples, send the number of the round."""

Scalar = bool | int | float | str | bytes
Value = Scalar | list[Scalar]
Records = Mapping[str, Mapping[str, Value]]
"""Config records by the key under which a message holds them."""


@dataclass(frozen=True, slots=True)
class Template:
    """What a round's messages hold besides the parameters, which stand under `arrays`.

    `weight` is the metric that says on how many examples a reply was trained.
    """

    train: str = "train"
    arrays: str = "arrays"
    weight: str = "num-examples"
    train_records: Records = field(default_factory=lambda: {"config": {"server-round": 1}})
    evaluate_records: Records = field(default_factory=lambda: {"config": {"server-round": 1}})

    def to_text(self) -> str:
        """The text. Raises `TemplateError` when it is too long or holds what cannot be written."""
        value = {
            "form": FORM,
            "train": self.train,
            "arrays": self.arrays,
            "weight": self.weight,
            "train_records": _written(self.train_records),
            "evaluate_records": _written(self.evaluate_records),
        }
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        if len(text) > MAX_TEXT:
            raise TemplateError(
                f"the app's train and evaluate configs take {len(text)} characters; a task has room for "
                f"{MAX_TEXT}: let its ClientApp read large values itself"
            )
        return text


def from_config(config: Mapping[str, Any]) -> Template:
    """The template in a task's config; the common one when there is none. Raises `TemplateError`."""
    text = config.get(CONFIG_KEY)
    if text is None:
        return Template()
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise TemplateError("the task's Flower messages are no text of the right size")
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or value.pop("form", None) != FORM:
            raise TemplateError("the task's Flower messages have a form that this version does not know")
        return Template(
            train=_train_type(value["train"]),
            arrays=_name(value["arrays"]),
            weight=_name(value["weight"]),
            train_records=_read(value["train_records"]),
            evaluate_records=_read(value["evaluate_records"]),
        )
    except (ValueError, KeyError, RecursionError) as error:
        raise TemplateError(f"the task's Flower messages cannot be read: {error}") from error


def in_round(records: Records, number: int) -> dict[str, dict[str, Value]]:
    """The records as they are sent in round `number`."""
    return {
        name: {key: number if _counts_rounds(key, value) else value for key, value in record.items()}
        for name, record in records.items()
    }


def _counts_rounds(key: str, value: Value) -> bool:
    return key in ROUND_KEYS and isinstance(value, int) and not isinstance(value, bool)


def _written(records: Records) -> dict[str, dict[str, Any]]:
    return {
        name: {key: _write(key, value) for key, value in record.items()} for name, record in records.items()
    }


def _write(key: str, value: Value) -> Any:
    if isinstance(value, list):
        return [_write(key, item) for item in value]
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        raise TemplateError(f"the app's config value {key!r} is {value}: only finite numbers can be sent")
    return value


def _read(records: Any) -> dict[str, dict[str, Value]]:
    if not isinstance(records, dict) or not all(isinstance(record, dict) for record in records.values()):
        raise ValueError("records are no maps")
    return {
        _name(name): {_name(key): _value(value) for key, value in record.items()}
        for name, record in records.items()
    }


def _value(value: Any) -> Value:
    if not isinstance(value, list):
        return _scalar(value)
    items = [_scalar(item) for item in value]
    if len({type(item) for item in items}) > 1:
        raise ValueError("a list holds values of several types")
    return items


def _scalar(value: Any) -> Scalar:
    if isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"bytes are not base64: {error}") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    if not isinstance(value, Scalar):
        raise ValueError(f"a value is of type {type(value).__name__}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise ValueError("a name is no text of 1 to 200 characters")
    return value


def _train_type(value: Any) -> str:
    category, dot, action = value.partition(".") if isinstance(value, str) else ("", "", "")
    if category != "train" or (dot and not action.isidentifier()):
        raise ValueError(f"{value!r} is no message type for training")
    return _name(value)
