"""The node's log: one line an event, `key=value` pairs or JSON, to stderr or to a rotating file.

Code logs an event in a few words and hands its facts over as `extra`: `log.info("peer joined",
extra={"peer": text})`. The formatter writes time (UTC), level, logger, event, then the facts in the order
given. Libraries below us are held to warnings, because libp2p logs every stream.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from node.errors import ConfigError

MAX_LOG_FILE = 10 << 20
"""Bytes of one log file before it is rotated."""
KEPT_LOG_FILES = 3
ROOT = "roseforest"
"""Every logger of ours is this one or below it."""

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_facts(self, record), default=str, ensure_ascii=False)


class KeyValues(logging.Formatter):
    """`key=value` pairs; a value with spaces, quotes, `=` or control characters is a JSON string."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_plain(value)}" for key, value in _facts(self, record).items())


def set_up_logging(level: str, style: str, file: Path | None, parts: Sequence[tuple[str, str]] = ()) -> None:
    """Send the process's log to `file` (rotating), or to stderr; replaces an earlier set-up.

    `level` and `style` are values of `Settings.log_level` and `Settings.log_format`; `parts` are pairs such
    as ("dht.overlay.kademlia", "debug"), for parts of the program that say more or less. Raises `ConfigError`
    when the file cannot be opened.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler()
    else:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(
                file, maxBytes=MAX_LOG_FILE, backupCount=KEPT_LOG_FILES, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"log_file {file} cannot be written: {error.strerror}") from error
    handler.setFormatter(JsonLines() if style == "json" else KeyValues())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith(f"{ROOT}.") and isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
    logging.getLogger(ROOT).setLevel(level.upper())
    for part, of_part in parts:
        logging.getLogger(f"{ROOT}.{part}").setLevel(of_part.upper())


def _facts(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    facts: dict[str, Any] = {
        "time": f"{stamp}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    facts.update((key, value) for key, value in vars(record).items() if key not in _PLAIN)
    if record.exc_info:
        facts["traceback"] = formatter.formatException(record.exc_info)
    return facts


def _plain(value: Any) -> str:
    text = str(value)
    if text and text.isprintable() and not any(char in text for char in ' "='):
        return text
    return json.dumps(text, ensure_ascii=False)
