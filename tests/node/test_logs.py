"""The log: one event a line, its facts in it, whatever they hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.errors import ConfigError
from node.logs import KEPT_LOG_FILES, MAX_LOG_FILE, set_up_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)  # pytest's own: set_up_logging would close them
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("roseforest").setLevel(logging.NOTSET)


def test_json_lines_carry_the_facts(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "node.log"
    set_up_logging("info", "json", file)
    log = logging.getLogger("roseforest.test")
    log.info("peer joined", extra={"peer": 'a "quoted"\nname', "count": 3})
    log.debug("unheard")
    logging.getLogger("libp2p").info("unheard as well")
    (line,) = file.read_text().splitlines()
    facts = json.loads(line)
    assert (facts["level"], facts["logger"], facts["event"]) == ("info", "roseforest.test", "peer joined")
    assert (facts["peer"], facts["count"]) == ('a "quoted"\nname', 3)


def test_key_values_stay_on_one_line(tmp_path: Path) -> None:
    set_up_logging("debug", "text", tmp_path / "log")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("roseforest").exception("failed", extra={"peer": "\x1b[31mred", "empty": ""})
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "event=failed" in line
    assert 'empty=""' in line
    assert "\x1b" not in line
    assert "two\\nlines" in line


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="log_file"):
        set_up_logging("info", "text", tmp_path / "file" / "log")


def test_a_log_file_is_rotated_and_all_together_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    set_up_logging("info", "json", file)
    log = logging.getLogger("roseforest.test")
    large = "x" * (MAX_LOG_FILE // 3)  # two of them fit into a file, the facts around them included
    written = 3 * (KEPT_LOG_FILES + 1)
    for number in range(written):
        log.info("large", extra={"number": number, "fill": large})
    names = ["node.log", *(f"node.log.{number}" for number in range(1, KEPT_LOG_FILES + 1))]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all((tmp_path / name).stat().st_size <= MAX_LOG_FILE for name in names)
    numbers = [
        json.loads(line)["number"]
        for name in names[::-1]
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert numbers == list(range(written - 2 * len(names), written)), "the newest are kept, in order"


def test_without_a_file_the_log_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json", None)
    logging.getLogger("roseforest.test").info("heard")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert json.loads(shown.err)["event"] == "heard"


def test_a_part_may_say_more_or_less_than_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    set_up_logging("info", "json", file, [("dht", "warning"), ("dht.overlay.kademlia", "debug")])
    for part in ("node.node", "dht.records.methods", "dht.overlay.kademlia"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(f"roseforest.{part}").log(level, "said")
    heard = [(facts["logger"], facts["level"]) for facts in map(json.loads, file.read_text().splitlines())]
    assert heard == [
        ("roseforest.node.node", "info"),
        ("roseforest.node.node", "warning"),
        ("roseforest.dht.records.methods", "warning"),
        ("roseforest.dht.overlay.kademlia", "debug"),
        ("roseforest.dht.overlay.kademlia", "info"),
        ("roseforest.dht.overlay.kademlia", "warning"),
    ]
    set_up_logging("info", "json", tmp_path / "again.log")
    logging.getLogger("roseforest.dht.overlay.kademlia").debug("unheard: an earlier set-up is over")
    assert (tmp_path / "again.log").read_text() == ""
