"""Errors of privacy: part of the bridge's tree, so that a command ends with its exit code."""

from __future__ import annotations

from federated.flower.errors import FlowerError


class PrivacyError(FlowerError):
    """Terms that cannot be used, or noise that the task does not take."""


class AccountingMissing(PrivacyError):
    """dp-accounting is not installed."""


class BudgetSpent(PrivacyError):
    """Another update would cost more than the member allows."""
