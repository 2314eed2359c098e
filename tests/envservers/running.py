"""Environment servers in the test's own process: in its thread, or in one of their own."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from typing import Any, cast

import pytest

from envservers.connection import Connection
from envservers.server import EnvServer
from tests.envservers.fake_learner import PATIENCE_MS, FakeLearner


def offer_function(
    name: str, make: Any, monkeypatch: pytest.MonkeyPatch, function: str = "make"
) -> None:
    """Makes `make` known as the function environment "name:function"."""
    module = types.ModuleType(name)
    vars(module)[function] = make
    monkeypatch.setitem(sys.modules, name, module)


class Served:
    """An environment server in this thread, which takes its turns while its learner waits."""

    def __init__(self, learner: FakeLearner, *sizes: int, **options: Any) -> None:
        self.lines: list[str] = []
        self.connection = connection = learner.connection
        self.server = EnvServer(
            cast(Connection, connection), sizes, name="test", say=self.lines.append,
            clock=lambda: connection.now_s, **options,
        )  # fmt: skip
        learner.turn = self.server.turn

    def wait(self) -> int:
        """Until it has ended; with which exit code."""
        self.connection.turns = 0
        return self.server.run()


Serve = Callable[..., Served]


class Running:
    """An environment server in a thread."""

    def __init__(self, address: str, *sizes: int) -> None:
        self.lines: list[str] = []
        self.exit_code: int | None = None
        self.server = EnvServer(Connection(address), sizes, name="test", say=self.lines.append)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.exit_code = self.server.run()

    def stop(self) -> None:
        if self.thread.is_alive():
            self.server.stop()
        self.thread.join(PATIENCE_MS / 1000)
        assert not self.thread.is_alive()
