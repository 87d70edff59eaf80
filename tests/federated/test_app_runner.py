"""A user's app in its own process: what it gives back is checked, and what it does wrong costs one round."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from chain.learning_task import Array
from federated.flower.errors import AppFailed, AppLost
from federated.flower.template import CONFIG_KEY, Template, from_config
from federated.update import decode, encode
from tests.federated.flower_projects import (
    CLIENT,
    LEGACY_CLIENT,
    LEGACY_SERVER,
    SERVER,
    TASK,
    project,
    runner,
)

SPECS = [Array(term["name"], term["dtype"], tuple(term["shape"])) for term in TASK["arrays"]]
SLOPE, OFFSET = np.array([1, 2, 3], "<f4"), np.array(0.5, "<f4")
BLOB = encode(SPECS, [SLOPE, OFFSET])
TEXT = Template(train_records={"config": {"server-round": 1, "step": 0.5}}).to_text()
SECONDS = 60.0
"""Far more than the apps need."""


def test_an_app_trains_evaluates_and_keeps_its_state(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with runner(project(tmp_path), part=1) as app:
        app.open()
        assert app.evaluates
        update = app.train(TASK, TEXT, BLOB, 3, SECONDS)
        slope, offset = decode(SPECS, update["blob"], 1000)
        np.testing.assert_array_equal(slope, SLOPE + 1)
        assert offset == 0.5
        assert offset.dtype == np.float32, "a wider float comes back as the task's"
        assert update["examples"] == 20
        assert update["metrics"] == {"loss": 1.5, "round": 3.0, "times": 1.0}
        assert app.train(TASK, TEXT, BLOB, 4, SECONDS)["metrics"]["times"] == 2.0
        assert app.evaluate(TASK, TEXT, BLOB, 4, SECONDS) == {"mean": 2.0, "num-examples": 7.0}
    out, err = capfd.readouterr()
    assert out == ""
    assert "must not disturb" in err


def test_an_older_client_reads_the_same_task(tmp_path: Path) -> None:
    """Under the older interface's names, with its arrays numbered, whoever made the task."""
    with runner(project(tmp_path, LEGACY_CLIENT, LEGACY_SERVER)) as app:
        app.open()
        update = app.train(TASK, TEXT, BLOB, 2, SECONDS)
        np.testing.assert_array_equal(decode(SPECS, update["blob"], 1000)[0], SLOPE + np.float32(0.5))
        assert update["examples"] == 10
        assert update["metrics"]["loss"] == 1.5
        assert app.evaluate(TASK, TEXT, BLOB, 2, SECONDS)["mean"] == 2.0


@pytest.mark.slow
def test_what_a_serverapp_begins_with_comes_through_its_process(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name, client, server in (("new", CLIENT, SERVER), ("old", LEGACY_CLIENT, LEGACY_SERVER)):
        with runner(project(tmp_path / name, client, server)) as app:
            found[name] = app.capture()
    assert [term["name"] for term in found["new"]["arrays"]] == ["slope", "offset"]
    assert found["new"]["arrays"] == TASK["arrays"]
    assert [term["shape"] for term in found["old"]["arrays"]] == [[3], []]
    assert found["new"]["blob"] == found["old"]["blob"], "the same parameters, whatever they are called"
    assert (found["new"]["rounds"], found["old"]["rounds"]) == (4, 5)
    assert found["old"]["strategy"] == "FedAvg"
    assert found["old"]["averages"]
    old = from_config({CONFIG_KEY: found["old"]["template"]})
    assert old.train_records == {"config": {"step": 0.5, "server_round": 1}}


WRONG = {
    "raises": r"RuntimeError: no data today",
    "exits": r"SystemExit: enough",
    "shape": r"'slope' came back with shape \(2,\); the task has \(3,\)",
    "names": r"'extra'; the task has 'slope', 'offset'",
    "weightless": r"no metric 'num-examples'",
    "negative": r"num-examples = -1",
    "no-message": r"returned a dict, not a Message",
}


def test_what_an_app_does_wrong_is_one_line_and_its_process_goes_on(tmp_path: Path) -> None:
    with runner(project(tmp_path)) as app:
        app.open()
        for mood, reason in WRONG.items():
            with pytest.raises(AppFailed, match=reason) as caught:
                app.train(TASK, in_mood(mood), BLOB, 1, SECONDS)
            assert "\n" not in str(caught.value)
        app.train(TASK, TEXT, BLOB, 1, SECONDS)


@pytest.mark.slow
def test_an_app_that_hangs_or_dies_is_ended_and_the_next_round_has_a_new_process(tmp_path: Path) -> None:
    with runner(project(tmp_path)) as app:
        app.open()
        with pytest.raises(AppLost, match="did not answer within 0 s and was ended"):
            app.train(TASK, in_mood("hangs"), BLOB, 1, 0.2)
        with pytest.raises(AppLost, match="ended with code 3"):
            app.train(TASK, in_mood("dies"), BLOB, 1, SECONDS)
        assert app.evaluate(TASK, TEXT, BLOB, 1, SECONDS)["mean"] == 2.0


def in_mood(mood: str) -> str:
    """The template with which a ServerApp would put the app in a mood."""
    return Template(train_records={"config": {"server-round": 1, "step": 0.5, "mood": mood}}).to_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (
            "import nonsense_that_is_not_there",
            r"No module named 'nonsense_that_is_not_there' \(line/client.py, line 1\): install what",
        ),
        ("import line.other", r"No module named 'line.other' \(line/client.py, line 1\)$"),
        ("\ndef app(:", r"SyntaxError: .* \(line/client.py, line 2\)$"),
        ("application = 1", "has no 'app', which the project names as its clientapp"),
        ("app = 1", "line.client:app is a int, not a ClientApp"),
    ],
)
def test_an_app_that_does_not_load_is_said_so(
    tmp_path: Path, client: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with runner(project(tmp_path, client)) as app, pytest.raises(AppFailed, match=reason) as caught:
        app.open()
    assert "\n" not in str(caught.value)
    _, err = capfd.readouterr()
    assert "app_process.py" not in err, "a traceback has the app's own lines only"
    assert "importlib" not in err


@pytest.mark.slow
def test_what_an_app_raises_is_shown_from_its_own_first_line_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with runner(project(tmp_path)) as app, pytest.raises(AppFailed) as caught:
        app.train(TASK, in_mood("raises"), BLOB, 1, SECONDS)
    place = r"the app failed: RuntimeError: no data today \(line/client.py, line \d+\)"
    assert re.fullmatch(place, str(caught.value))
    _, err = capfd.readouterr()
    assert 'raise RuntimeError("no data today")' in err
    assert "app_process.py" not in err
