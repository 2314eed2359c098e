from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.envservers.fake_learner import FakeLearner
from tests.envservers.running import Running


@pytest.fixture
def learner() -> Iterator[FakeLearner]:
    learner = FakeLearner()
    yield learner
    learner.close()


@pytest.fixture
def serve(learner: FakeLearner) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(*sizes: int, once: bool = False) -> Running:
        running.append(Running(learner.address, *sizes, once=once))
        return running[-1]

    yield start
    for server in running:
        server.stop()
