from __future__ import annotations

import dataclasses
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envservers.environments.factory import InvalidEnvironment, describe
from seed.config.schema import Config
from seed.inference.loop import Inference
from seed.learner.checkpoint import Checkpoint
from seed.process.signals import SIGNALS
from seed.run import main, plan
from seed.run.build import Run, build_run
from seed.run.description import Spaces, UnusableEnvironment
from seed.run.folder import RunFolder
from seed.run.lock import RunLock
from seed.run.plan import Plan, plan_run

Build = Callable[..., Run]


@pytest.fixture(autouse=True)
def module_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the folders back that a configuration has added."""
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture
def process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives the process its log, its hook for threads and its signal handlers back."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def closed_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Run]]:
    """The runs that are built meanwhile; the sockets of those that never ran are closed."""
    runs: list[Run] = []

    def note(plan: Plan, folder: RunFolder) -> Run:
        runs.append(build_run(plan, folder))
        return runs[-1]

    monkeypatch.setattr(main, "build_run", note)
    monkeypatch.setattr("seed.inference.loop._FAREWELL_MS", 5)
    yield runs
    stop = threading.Event()
    stop.set()
    for run in runs:
        # Some tests have work of their own in its place.
        Inference.run(run.inference, stop, lambda: "it never ran")
        if run.inference.authentication is not None:
            run.inference.authentication.context.term()


@pytest.fixture
def build(closed_afterwards: list[Run], describes_here: None) -> Iterator[Build]:
    """Builds a run from a configuration and a checkpoint; the lock of its folder is held."""
    locks: dict[str, RunLock] = {}

    def build_here(config: Config, loaded: Checkpoint | None = None) -> Run:
        if config.run_dir not in locks:
            locks[config.run_dir] = RunLock(Path(config.run_dir))
        run = build_run(plan_run(config, loaded), RunFolder(config, locks[config.run_dir]))
        closed_afterwards.append(run)
        return run

    yield build_here
    for lock in locks.values():
        lock.release()


@pytest.fixture
def describes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the environment in this process, which saves the start of another one."""

    def describe_here(config: Config) -> Spaces:
        try:
            return Spaces(*describe(dataclasses.asdict(config.environment)))
        except InvalidEnvironment as error:
            raise UnusableEnvironment(str(error)) from None

    monkeypatch.setattr(plan, "describe", describe_here)
