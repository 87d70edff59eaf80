"""Hypothesis profiles: `fast` while working, `ci` derandomised, so that a red run is red for everyone."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW_MACHINE = [HealthCheck.too_slow]

settings.register_profile("fast", deadline=None, max_examples=50, suppress_health_check=_SLOW_MACHINE)
settings.register_profile(
    "ci", deadline=None, max_examples=50, derandomize=True, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=_SLOW_MACHINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))
