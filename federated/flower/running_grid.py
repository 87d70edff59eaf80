"""What every grid of ours has in common: a ServerApp runs on it, on a thread that it knows."""

from __future__ import annotations

import threading
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class RunningGrid(Grid):
    """The run, the making of messages, and which thread is the app's: workers of older servers are others."""

    def __init__(self, run_id: int) -> None:
        self._run = Run.create_empty(run_id)
        self._app_thread = threading.get_ident()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: Any, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def own_thread(self) -> None:
        """The calling thread is the one that runs the app."""
        self._app_thread = threading.get_ident()

    def on_app_thread(self) -> bool:
        """Whether the calling thread is that one."""
        return threading.get_ident() == self._app_thread
