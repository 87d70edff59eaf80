"""Errors of the Flower bridge: one tree under `FlowerError`, each message one line that says what to do."""

from __future__ import annotations

REFUSED = 5
"""The exit code of a command that ends with one of these (docs/cli.md)."""


class FlowerError(Exception):
    """Anything that the bridge raises on purpose."""

    exit_code = REFUSED


class FlowerMissing(FlowerError):
    """flwr is not installed."""


class ProjectError(FlowerError):
    """The folder is no Flower project, or its pyproject.toml cannot be used."""


class TemplateError(FlowerError):
    """What a task says about the messages of its rounds cannot be used."""


class AppFailed(FlowerError):
    """The user's app raised, or gave back what the task cannot use; its process goes on."""


class AppLost(FlowerError):
    """The app's process took too long, ended, or spoke nonsense; it is gone."""
