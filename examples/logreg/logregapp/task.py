"""The data, the model and its training; nothing in here knows of Flower.

The data are scikit-learn's 569 tumours, each measured in 30 ways, malignant or not. A fifth of them is the
common test set, the rest is divided among the parts.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FEATURES = 30
TEST_SHARE = 5
"""One tumour in so many is for testing."""


@dataclass(frozen=True, slots=True)
class Data:
    """Tumours as rows of measures, and 1 where one is benign."""

    measures: Floats
    benign: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.benign)

    def scaled(self, mean: Floats, scale: Floats) -> Data:
        """The same with each measure less its mean, in units of its scale."""
        return Data((self.measures - mean) / scale, self.benign)


@dataclass(frozen=True, slots=True)
class Model:
    """One weight for each measure, and a bias."""

    weights: Floats
    bias: Floats


def load() -> tuple[Data, Data]:
    """All training data and the test data, in an order that is always the same."""
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    measures, benign = bunch.data[order], bunch.target[order].astype(np.int64)
    tested = np.arange(len(benign)) % TEST_SHARE == 0
    return Data(measures[~tested], benign[~tested]), Data(measures[tested], benign[tested])


def part_of(data: Data, part: int, parts: int) -> Data:
    """Part `part` of `parts`; disjoint, and together everything."""
    if not 0 <= part < parts:
        raise ValueError(f"there is no part {part} of {parts}")
    return Data(data.measures[part::parts], data.benign[part::parts])


def new_model() -> Model:
    """A model that knows nothing."""
    return Model(np.zeros(FEATURES), np.zeros(1))


def train(model: Model, data: Data, steps: int, regularisation: float) -> Model:
    """The model after so many steps of the solver on scaled data."""
    learner = _learner(model, steps, regularisation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few steps do not get to the end
        learner.fit(data.measures, data.benign)
    return Model(learner.coef_[0], learner.intercept_)


def test(model: Model, data: Data) -> tuple[float, float]:
    """Loss and accuracy on scaled data."""
    from sklearn.metrics import log_loss

    learner = _learner(model, 1, 1.0)
    shares = learner.predict_proba(data.measures)
    return float(log_loss(data.benign, shares, labels=[0, 1])), float(
        learner.score(data.measures, data.benign)
    )


def _learner(model: Model, steps: int, regularisation: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    learner: Any = LogisticRegression(C=regularisation, max_iter=steps, warm_start=True)
    learner.classes_ = np.array([0, 1])
    learner.coef_, learner.intercept_ = model.weights[None, :].copy(), model.bias.copy()
    return learner
