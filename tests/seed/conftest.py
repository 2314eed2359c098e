from __future__ import annotations

import dataclasses
import sys

import pytest

from envservers.environments import InvalidEnvironment, describe
from seed import main
from seed.config import Config
from seed.description import UnusableEnvironment
from seed.spaces import Spaces


@pytest.fixture(autouse=True)
def module_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the folders back that a configuration has added."""
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture
def describes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the environment in this process, which saves the start of another one."""

    def describe_here(config: Config) -> Spaces:
        try:
            return Spaces(*describe(dataclasses.asdict(config.environment)))
        except InvalidEnvironment as error:
            raise UnusableEnvironment(str(error)) from None

    monkeypatch.setattr(main, "describe", describe_here)
