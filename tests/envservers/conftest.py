from __future__ import annotations

from typing import Any

import pytest

from tests.envservers.fake_learner import FakeLearner
from tests.envservers.running import Serve, Served


@pytest.fixture
def learner() -> FakeLearner:
    return FakeLearner()


@pytest.fixture
def serve(learner: FakeLearner) -> Serve:
    def start(*sizes: int, **options: Any) -> Served:
        return Served(learner, *sizes, **options)

    return start
