"""What stands between a ServerApp and its members' answers, and what a ClientApp keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from federated.flower.admission import admit, odd_ones, unreadable
from federated.flower.client_state import MAX_FILES, ClientState, state_file
from federated.flower.envelope import pack_reply
from federated.flower.grid import Ask, LoggedGrid
from federated.flower.messages import identify, new_context
from federated.flower.npz import npz, unlike
from federated.flower.outcome import WEIGHTS, Watched

Values = Any


def arrays(**named: Values) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in named.items()})


def reply(metrics: dict[str, Any], **records: ArrayRecord) -> RecordDict:
    return RecordDict({**records, "metrics": MetricRecord(metrics)})


def fault(request: RecordDict, answer: RecordDict) -> str | None:
    return admit(request, answer, WEIGHTS, max_examples=100, max_abs=1000.0)


def test_what_answers_a_model_has_its_form_and_bounds_and_what_does_not_is_the_apps() -> None:
    model = RecordDict({"arrays": arrays(w=np.zeros(3)), "config": ConfigRecord({"lr": 0.5})})
    n = {"num-examples": 7}
    assert fault(model, reply(n, arrays=arrays(w=np.ones(3)))) is None
    # A second record beside the model, a control variate say, is no answer to the model.
    assert fault(model, reply(n, arrays=arrays(w=np.ones(3)), more=arrays(c=np.full(9, 5e4)))) is None
    assert "shape" in str(fault(model, reply(n, arrays=arrays(w=np.ones(4)))))
    assert "shape" in str(fault(model, reply(n, renamed=arrays(w=np.ones(1)))))
    assert "beyond" in str(fault(model, reply(n, arrays=arrays(w=np.full(3, 1001.0)))))
    assert "float32" in str(fault(model, reply(n, arrays=arrays(w=np.ones(3, np.float32)))))
    assert "not finite" in str(fault(model, reply(n, more=arrays(c=np.nan), arrays=arrays(w=np.ones(3)))))
    assert "outside" in str(fault(model, reply({"num-examples": 101}, arrays=arrays(w=np.ones(3)))))
    # Sums that nobody sent anything for may be as large as they are.
    assert fault(RecordDict(), reply(n, sums=arrays(squares=[1e9]))) is None
    # A boosted tree is bytes, of whatever length; it is still no picture.
    trees = RecordDict({"arrays": arrays(**{"0": np.zeros(0, np.uint8)})})
    assert fault(trees, reply(n, arrays=arrays(**{"0": np.ones(5000, np.uint8)}))) is None
    assert "shape" in str(fault(trees, reply(n, arrays=arrays(**{"0": np.ones((2, 2), np.uint8)}))))


def test_a_message_whose_header_promises_more_than_it_has_reaches_no_app() -> None:
    """NumPy would allocate what the header says before it finds that the elements are not there."""
    sound = Array(np.zeros(3))
    assert unreadable(RecordDict({"arrays": ArrayRecord({"w": sound})})) is None
    huge = sound.data.replace(b"(3,)", b"(9999999999,)")[: len(sound.data)]
    hostile = Array(dtype=sound.dtype, shape=sound.shape, stype=sound.stype, data=huge)
    found = unreadable(RecordDict({"arrays": ArrayRecord({"w": hostile})}))
    assert found is not None
    assert "array 'w'" in found


def test_the_older_interface_says_no_shapes_beside_its_arrays() -> None:
    """Its arrays travel with an empty shape; what counts is what the array itself says."""
    data = Array(np.ones((2, 2))).data
    bare = ArrayRecord({"0": Array(dtype="", shape=(), stype="numpy.ndarray", data=data)})
    asked = RecordDict({"fitins.parameters": bare})
    assert fault(asked, reply({"num_examples": 1}, **{"fitres.parameters": bare})) is None
    other = arrays(**{"0": np.ones(3)})
    assert "shape" in str(fault(asked, reply({"num_examples": 1}, **{"fitres.parameters": other})))


def test_an_answer_of_another_form_than_the_rest_is_kept_from_flowers_strategies() -> None:
    def odd(*replies: RecordDict, kind: str = "train") -> list[int]:
        places = dict(enumerate(replies))
        return [place for place, _ in odd_ones(places, dict.fromkeys(places, kind), WEIGHTS)]

    w = arrays(w=np.ones(2))
    good = reply({"num-examples": 3, "loss": 0.5}, arrays=w)
    assert odd(good, good, good) == []
    assert odd(good, reply({"num-examples": 3}, arrays=w), good) == [1]
    assert odd(reply({"num-examples": 3, "loss": [0.5, 1.0]}, arrays=w), good, good) == [0]
    assert odd(good, good, reply({"num-examples": 3, "loss": 0.5}, arrays=w, more=w)) == [2]
    # Two who agree on what no strategy can use do not outvote one who answers as asked.
    useless = reply({"loss": 0.5}, arrays=w)
    assert odd(useless, useless, good) == [0, 1]
    # When all are alike it is the app's way, and Flower's own error says what it thinks of it.
    assert odd(useless, useless) == []
    assert odd(RecordDict(), good) == [0]


def grid(world: Callable[[Ask], Any], watched: Watched | None = None) -> LoggedGrid:
    identify(5, 1)
    return LoggedGrid(5, world, watched or Watched(), max_examples=100, max_abs=1000.0)


def test_who_polls_for_replies_is_told_of_those_that_will_not_come() -> None:
    waits: list[float | None] = []

    def world(ask: Ask) -> Any:
        waits.append(ask.wait)
        return {1: pack_reply(reply({"num-examples": 3}))}

    polled = grid(world)
    to = [Message(RecordDict(), node, "query", group_id="1") for node in (7, 8, 9)]
    waiting = set(polled.push_messages(to))
    answers = list(polled.pull_messages(waiting))
    assert {one.metadata.reply_to_message_id for one in answers} == waiting
    assert sorted(one.metadata.src_node_id for one in answers if one.has_error()) == [7, 9]
    assert list(polled.pull_messages(waiting)) == []
    sent = [Message(RecordDict(), node, "query", group_id="2") for node in (7, 8, 9)]
    assert [one.metadata.src_node_id for one in grid(world).send_and_receive(sent, timeout=0.1)] == [8]
    ttls = [(7, 3.0), (8, 5.0)]
    short = [Message(RecordDict(), node, "query", ttl=ttl, group_id="3") for node, ttl in ttls]
    assert len(list(grid(world).send_and_receive(short, timeout=60.0))) == 1
    assert waits == [to[0].metadata.ttl, 0.1, 5.0], "the timeout, or the longest ttl"


def test_a_strategy_with_a_start_of_its_own_is_seen_and_left_as_it_was() -> None:
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, Result

    class Own(FedAvg):  # type: ignore[misc]
        def start(self, *args: Any, **named: Any) -> Result:
            result = Result()
            result.arrays = arrays(w=np.full(2, 7.0))
            return result

    before = Own.start
    with Watched() as watched:
        assert (watched.arrays, watched.one_form) == (None, False)
        Own(weighted_by_key="mass").start(None, arrays(w=np.zeros(2)))
        seen = watched.arrays
        assert seen is not None
        np.testing.assert_array_equal(seen["w"].numpy(), np.full(2, 7.0))
        assert "mass" in watched.weights
        assert watched.one_form
    assert Own.start is before
    private = DifferentialPrivacyServerSideFixedClipping(Own(weighted_by_key="mass"), 0.1, 1.0, 2)
    with Watched() as watched, pytest.raises(AttributeError):
        private.start(None, arrays(w=np.zeros(2)))
    assert watched.one_form
    assert "mass" in watched.weights
    assert watched.arrays is None


def test_a_message_changes_a_clients_state_once_however_often_its_process_dies(tmp_path: Path) -> None:
    file = state_file(tmp_path / "states", "task")

    def opened() -> tuple[ClientState, Callable[[], int]]:
        context = new_context(5, 6, {}, {})

        def count() -> int:
            seen = int(context.state["seen"]["times"]) + 1 if "seen" in context.state else 1
            context.state["seen"] = MetricRecord({"times": seen})
            return seen

        return ClientState(context, file), count

    state, count = opened()
    assert [state.during("a", count), state.during("b", count)] == [1, 2]
    assert state.during("b", count) == 2, "the same message again, in the same process"
    state, count = opened()
    assert state.during("b", count) == 2, "the same message again, in a new one"
    assert state.during("c", count) == 3

    def fails() -> int:
        count()
        raise ValueError("the app's own")

    with pytest.raises(ValueError, match="own"):
        state.during("d", fails)
    assert state.during("d", count) == 4
    state, count = opened()
    assert state.during("e", count) == 5
    file.write_bytes(b"\x81\xa1x\x01")
    state, count = opened()
    assert state.during("f", count) == 1


def test_states_of_so_many_tasks_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    for number in range(MAX_FILES + 3):
        state_file(folder, f"task{number:03}").write_bytes(b"")
    assert len(list(folder.iterdir())) == MAX_FILES


def test_a_result_is_alike_within_the_tolerance_and_a_strangers_file_is_read_no_further() -> None:
    weights = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    ours = npz({"weights": weights, "steps": np.arange(3)})
    assert unlike(ours, npz({"weights": weights + np.float32(5e-5), "steps": np.arange(3)}), 1e-4) is None
    for theirs, why in (
        (npz({"weights": weights + np.float32(5e-3), "steps": np.arange(3)}), "differs by more than 0.0001"),
        (npz({"weights": weights, "steps": np.arange(1, 4)}), "'steps' has other values"),
        (npz({"weights": weights.T, "steps": np.arange(3)}), "'weights' has another dtype or shape"),
        (npz({"weights": np.zeros(10**7), "steps": np.arange(3)}), "'weights' has another dtype or shape"),
        (npz({"weights": weights}), "other arrays"),
        (ours[:-30], "no file of arrays"),
        (ours.replace(b"steps.npy", b"steps.np\0"), "arrays"),
        (b"", "no file of arrays"),
    ):
        found = unlike(ours, theirs, 1e-4)
        assert found is not None
        assert why in found
