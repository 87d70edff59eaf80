"""The process in which the user's app runs: `python -m federated.flower.app_process REQUESTS REPLIES`.

It takes one request at a time from the file descriptor REQUESTS and answers on REPLIES; both are the
command's. What the app prints goes to standard error, so that it mixes with nothing. An app that raises costs
its round, not the process; when the command has gone, the process ends, also in the middle of a round.
"""

from __future__ import annotations

import importlib
import os
import select
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from federated.flower.errors import AppFailed, FlowerError
from federated.flower.initial import described
from federated.flower.pipes import PipeBroken, receive, send
from federated.flower.raised import told
from federated.flower.template import CONFIG_KEY, from_config

if TYPE_CHECKING:
    import numpy as np

    from chain.learning_task import Array


class Host:
    """Holds the app and its context between requests."""

    def __init__(self) -> None:
        self._app: Any = None
        self._context: Any = None
        self._state: Any = None
        self._served: Any = None
        self._nodes: dict[int, str] = {}
        self._handed: dict[int, bytes] = {}
        self.root: Path | None = None
        """The project's folder, once a request has named it."""

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load the ClientApp."""
        from flwr.clientapp import ClientApp

        from federated.flower.client_state import ClientState
        from federated.flower.messages import evaluates, identify, new_context

        _quieten(request["verbose"])
        identify(request["run_id"], request["node_id"])
        self._app = _load(request["root"], request["clientapp"], ClientApp, "clientapp")
        self._context = new_context(
            request["run_id"], request["node_id"], request["node_config"], request["run_config"]
        )
        self._state = ClientState(self._context, Path(request["state"]) if request["state"] else None)
        return {"evaluates": evaluates(self._app)}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train in one round; the model blob of the update, the examples and the metrics."""
        from federated.flower.messages import train_message, trained
        from federated.update import encode

        template = from_config({CONFIG_KEY: request["template"]})
        specs = _specs(request["arrays"])
        message = train_message(
            self._app,
            template,
            _decoded(request, specs),
            request["round"],
            self._context,
            time.time(),
            request["seconds"],
        )
        arrays, examples, metrics = self._state.during(
            f"round {request['round']}",
            lambda: trained(self._app(message, self._context), template, specs),
        )
        return {"blob": encode(specs, arrays), "examples": examples, "metrics": metrics}

    def evaluate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Evaluate the parameters after a round; the metrics."""
        from federated.flower.messages import evaluate_message, evaluated

        template = from_config({CONFIG_KEY: request["template"]})
        message = evaluate_message(
            self._app,
            template,
            _decoded(request, _specs(request["arrays"])),
            request["round"],
            self._context,
            time.time(),
            request["seconds"],
        )
        return {"metrics": evaluated(self._app(message, self._context), template)}

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let the ClientApp answer a message of the ServerApp's run; what it raises is its answer, too."""
        from federated.flower.admission import unreadable
        from federated.flower.envelope import pack_reply, unpack_request
        from federated.flower.messages import content_of, run_message

        asked = unpack_request(request["message"])
        fault = unreadable(asked.content)
        if fault is not None:
            return {"message": pack_reply(None, fault), "problem": fault}
        message = run_message(
            asked.type, asked.group, asked.content, self._context, time.time(), request["seconds"]
        )
        try:
            content = self._state.during(
                request["name"], lambda: content_of(self._app(message, self._context))
            )
            return {"message": pack_reply(content), "problem": None}
        except (Exception, SystemExit) as error:
            # The user's code may raise anything; the ServerApp is to see a failed answer, and we go on.
            problem = told(error, self.root)
            return {"message": pack_reply(None, problem), "problem": problem}

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start the ServerApp; what it wants first. See `federated.flower.grid`."""
        from flwr.serverapp import ServerApp

        from federated.flower.grid import Served, seed
        from federated.flower.messages import SERVER_ID, identify, new_context

        _quieten(request["verbose"])
        identify(request["run_id"], SERVER_ID)
        seed(request["run_id"])
        app = _load(request["root"], request["serverapp"], ServerApp, "serverapp")
        context = new_context(request["run_id"], SERVER_ID, {}, request["run_config"])
        self._served = Served(app, context, request["max_examples"], request["max_abs"], self.root)
        return self._wanted()

    def check(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load the ServerApp and run nothing."""
        from flwr.serverapp import ServerApp

        _quieten(request["verbose"])
        _load(request["root"], request["serverapp"], ServerApp, "serverapp")
        return {}

    def hand(self, request: dict[str, Any]) -> dict[str, Any]:
        """Keep an answer until the ServerApp goes on."""
        self._handed[int(request["place"])] = request["data"]
        return {}

    def go_on(self, request: dict[str, Any]) -> dict[str, Any]:
        """Give the ServerApp what it wanted; what it wants next."""
        if "nodes" in request:
            self._nodes = {_node_id(agent): agent for agent in request["nodes"]}
            self._served.give(sorted(self._nodes))
        else:
            handed, self._handed = self._handed, {}
            self._served.give(handed)
            del handed  # the app's thread drops each answer once it is read
        return self._wanted()

    def _wanted(self) -> dict[str, Any]:
        from federated.flower.npz import npz

        ask = self._served.next()
        contents = list({id(data): data for _, data in ask.messages}.values())
        places = {id(data): place for place, data in enumerate(contents)}
        return {
            "want": ask.want,
            "contents": contents,
            "messages": [[self._nodes[node], places[id(data)]] for node, data in ask.messages],
            "wait": ask.wait,
            "result": None if ask.result is None else npz(ask.result),
            "failed": ask.failed,
            "refused": [[self._nodes.get(node, ""), why] for node, why in ask.refused],
        }

    def same(self, request: dict[str, Any]) -> dict[str, Any]:
        """How the messages of a run differ from those on record; nothing when they do not."""
        from federated.flower.grid import differences

        return {"differences": differences(request["ours"], request["theirs"], request["tolerance"])}

    def capture(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the ServerApp up to its first train message; see `federated.flower.capture`."""
        from flwr.clientapp import ClientApp
        from flwr.serverapp import ServerApp

        from federated.flower.capture import capture
        from federated.flower.messages import SERVER_ID, new_context

        _quieten(request["verbose"])
        server = _load(request["root"], request["serverapp"], ServerApp, "serverapp")
        client: Any = None

        def answer(message: Any, context: Any) -> Any:
            nonlocal client
            if client is None:
                client = _load(request["root"], request["clientapp"], ClientApp, "clientapp")
            own = new_context(context.run_id, context.node_id, request["node_config"], request["run_config"])
            return client(message, own)

        context = new_context(request["run_id"], SERVER_ID, {}, request["run_config"])
        captured = capture(server, context, answer)
        terms, blob = described(captured.arrays)
        return {
            "template": captured.template.to_text(),
            "blob": blob,
            "arrays": terms,
            "rounds": captured.rounds,
            "strategy": captured.strategy,
            "averages": captured.averages,
        }


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the command has gone."""
    host = Host()
    deeds = {
        "open": host.open,
        "train": host.train,
        "evaluate": host.evaluate,
        "capture": host.capture,
        "reply": host.reply,
        "check": host.check,
        "hand": host.hand,
        "serve": host.serve,
        "go_on": host.go_on,
        "same": host.same,
    }
    while True:
        request = receive(requests)
        if "root" in request:
            host.root = Path(request["root"])
        try:
            reply = {"ok": True, **deeds[request["do"]](request)}
        except FlowerError as error:
            reply = {"ok": False, "error": str(error)}
        except (Exception, SystemExit) as error:
            # The user's code may raise anything, and has to learn where.
            reply = {"ok": False, "error": told(error, host.root)}
        send(replies, reply)


def _node_id(agent: str) -> int:
    from federated.flower.project import number_of

    return number_of(agent)


def _load(root: str, reference: str, kind: type, role: str) -> Any:
    """The object that `module:attribute` names in the project's folder. Raises `AppFailed`."""
    if not reference:
        raise AppFailed(f"the project names no {role} in [tool.flwr.app.components]")
    if root not in sys.path:
        sys.path.insert(0, root)
    module, _, attributes = reference.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise AppFailed(f"{module} has no {attributes!r}, which the project names as its {role}")
        found = getattr(found, attribute)
    if not isinstance(found, kind):
        raise AppFailed(f"{reference} is a {type(found).__name__}, not a {kind.__name__}")
    return found


def _quieten(verbose: bool) -> None:
    """Flower's own log: warnings about its coming versions are not for those who only run an app."""
    import logging

    logging.getLogger("flwr").setLevel(logging.INFO if verbose else logging.ERROR)


def _specs(terms: list[dict[str, Any]]) -> list[Array]:
    from chain.learning_task import Array

    return [Array(item["name"], item["dtype"], tuple(item["shape"])) for item in terms]


def _decoded(request: dict[str, Any], specs: list[Array]) -> dict[str, np.ndarray[Any, Any]]:
    from federated.update import decode

    arrays = decode(specs, request["blob"], request["max_abs"])
    return {array.name: values for array, values in zip(specs, arrays, strict=True)}


def main(arguments: list[str]) -> None:
    """Serve the two file descriptors that the command handed over."""
    # Flower reports usage unless this is set before its first import; what is trained is nobody's business.
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    requests, replies = (int(argument) for argument in arguments)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    try:
        with open(requests, "rb") as source, open(replies, "wb") as sink:
            serve(source, sink)
    except (PipeBroken, KeyboardInterrupt):
        pass
    # Threads of the app may be left, waiting for ever; nothing here needs an orderly end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with(requests: int) -> None:
    """End the process as soon as nobody can send it requests: a killed command leaves no app behind."""
    watch = select.poll()
    watch.register(requests, 0)  # a hang-up is always reported
    watch.poll()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
