"""An environment server in a thread of the test's process."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest

from envservers.server import EnvServer
from envservers.supervision.shared_state import Supervision
from tests.envservers.fake_learner import PATIENCE_MS


def offer_function(
    name: str, make: Any, monkeypatch: pytest.MonkeyPatch, function: str = "make"
) -> None:
    """Makes `make` known as the function environment "name:function"."""
    module = types.ModuleType(name)
    vars(module)[function] = make
    monkeypatch.setitem(sys.modules, name, module)


class Running:
    """An environment server in a thread."""

    def __init__(
        self,
        address: str,
        *sizes: int,
        once: bool = False,
        supervision: Supervision | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.exit_code: int | None = None
        self.server = EnvServer(
            address, sizes, once=once, name="test", supervision=supervision, say=self.lines.append
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.exit_code = self.server.run()

    def wait(self) -> int | None:
        self.thread.join(PATIENCE_MS / 1000)
        return self.exit_code

    def stop(self) -> None:
        if self.thread.is_alive():
            self.server.stop()
        self.thread.join(PATIENCE_MS / 1000)
        assert not self.thread.is_alive()


Serve = Callable[..., Running]
