from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.envservers.fake_learner import FakeLearner


@pytest.fixture
def learner() -> Iterator[FakeLearner]:
    learner = FakeLearner()
    yield learner
    learner.close()
