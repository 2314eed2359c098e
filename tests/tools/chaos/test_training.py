"""What a training starts; real processes are tested with the commands that start them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tools.bench.processes import Processes
from tools.chaos.proxy import FaultProxy
from tools.chaos.training import Setup, Training


class Noted:
    """Stands in for processes: their commands are a list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands: list[list[str]] = []

    def start(self, name: str, command: list[str]) -> Any:
        self.commands.append(command)
        return SimpleNamespace(log_file=self.folder / name, wait_for=lambda text: text)


@pytest.mark.parametrize(("groups", "expected"), [(None, []), (1, ["--groups", "1"])])
def test_environment_servers_have_the_groups_that_are_asked_for(
    groups: int | None, expected: list[str], tmp_path: Path
) -> None:
    noted = Noted(tmp_path)
    proxy = SimpleNamespace(links=[SimpleNamespace(address="tcp://127.0.0.1:5001")])
    setup = Setup(1, 8, 1, 5.0, groups=groups)
    Training(setup, cast(Processes, noted), cast(FaultProxy, proxy), 5000)
    _, server = noted.commands
    assert server[server.index("--num-envs") + 1 :] == ["8", *expected]
