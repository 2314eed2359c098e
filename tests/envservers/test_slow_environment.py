"""An environment that takes its time holds up its own server, and no other."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from envservers.connection import Connection
from envservers.server import EnvServer
from tests.envservers.fake_learner import PATIENCE_MS, offer_function
from tests.seed.central import central
from tests.waiting import wait_for

STEPS = 200


class Sleeper(gymnasium.Env[Any, Any]):
    """Sleeps in every step until it is woken up for good; counts the steps that it has made."""

    observation_space, action_space = Box(0, 9, (), np.int64), Discrete(100)

    def __init__(self, awake: threading.Event) -> None:
        self.awake, self.asleep, self.steps = awake, threading.Event(), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.int64(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.asleep.set()
        assert self.awake.wait(300)
        self.steps += 1
        return np.int64(0), 0.0, False, False, {}


def test_others_go_on_while_one_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    night, day = threading.Event(), threading.Event()
    day.set()
    envs: list[Sleeper] = []
    servers: list[tuple[EnvServer, threading.Thread]] = []

    def make() -> Sleeper:
        envs.append(Sleeper(day if envs else night))
        return envs[-1]

    def serve(address: str, *sizes: int) -> None:
        server = EnvServer(Connection(address), sizes)
        servers.append((server, threading.Thread(target=server.run)))
        servers[-1][1].start()

    offer_function("a", make, monkeypatch, "b")
    # More rows than the others have: no batch may wait for the one that sleeps. Nobody learns.
    with central(min_batch=6, max_wait_us=1000, evaluation_share=1.0) as served:
        try:
            serve(served.inference.endpoint, 1)
            wait_for(lambda: bool(envs) and envs[0].asleep.is_set())
            serve(served.inference.endpoint, 2, 1)
            wait_for(lambda: len(envs) == 4 and min(env.steps for env in envs[1:]) >= STEPS)
            assert envs[0].steps == 0
            night.set()
            wait_for(lambda: envs[0].steps >= 10)
        finally:
            night.set()
            for server, thread in servers:
                server.stop()
                thread.join(PATIENCE_MS / 1000)
                assert not thread.is_alive()
