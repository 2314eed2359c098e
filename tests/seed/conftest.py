from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator

import pytest

from envservers.environments.factory import InvalidEnvironment, describe
from seed.config.schema import Config
from seed.learner.checkpoint import Checkpoint
from seed.run import build, main
from seed.run.description import UnusableEnvironment
from seed.run.parts import Run
from seed.run.spaces import Spaces


@pytest.fixture(autouse=True)
def module_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the folders back that a configuration has added."""
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture
def assembled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes the sockets of runs that were put together and never ran."""
    runs, assemble = [], build.assemble

    def note(config: Config, loaded: Checkpoint | None) -> Run:
        runs.append(assemble(config, loaded))
        return runs[-1]

    for module in (build, main):
        monkeypatch.setattr(module, "assemble", note)
    monkeypatch.setattr("seed.inference.loop._FAREWELL_MS", 5)
    yield
    stop = threading.Event()
    stop.set()
    for run in runs:
        run.inference.run(stop, lambda: "it never ran")


@pytest.fixture
def describes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the environment in this process, which saves the start of another one."""

    def describe_here(config: Config) -> Spaces:
        try:
            return Spaces(*describe(dataclasses.asdict(config.environment)))
        except InvalidEnvironment as error:
            raise UnusableEnvironment(str(error)) from None

    monkeypatch.setattr(build, "describe", describe_here)
