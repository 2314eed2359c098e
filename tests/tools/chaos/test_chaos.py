"""Faults begin, end and are recovered from in a training that a test plays."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tools.chaos.__main__ import main
from tools.chaos.chaos import RECOVERY_LIMIT_S, Chaos, Unready
from tools.chaos.faults import KINDS
from tools.chaos.training import Training


class Played:
    """Stands in for a training: what is done to it is a list, and time passes with each look."""

    def __init__(self, servers: int, recovers: bool = True) -> None:
        self.servers = [PlayedServer(index, self) for index in range(servers)]
        self.learner = "learner"
        self.done: list[str] = []
        self.made_s: dict[int, float] = {}
        self.recovers = recovers
        self._now_s = 0.0

    def now_s(self) -> float:
        return self._now_s

    def look(self) -> None:
        self._now_s += 0.05
        if self.recovers or not self.made_s:
            self.made_s = {server.index: self._now_s - 0.2 for server in self.servers}

    def signal(self, process: str, number: Any) -> None:
        self.done.append(f"{number.name} {process}")

    def kill_learner(self) -> None:
        self._now_s += 3.0
        self.done.append("killed learner")

    def call(self, method: Any) -> Any:
        return method()


class PlayedServer:
    """An environment server whose link only notes what it is told."""

    def __init__(self, index: int, training: Played) -> None:
        self.index, self.process, self.link = index, f"server {index}", self
        self.recorded = [b"old"] * 20
        self._training = training

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._training.done.append(f"{name} {self.index}")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.chaos.chaos.time.sleep", lambda seconds: None)


def _run(training: Played, kinds: list[str], seconds: float, **options: Any) -> Chaos:
    chaos = Chaos(
        cast(Training, training), kinds, faults_per_minute=600.0, longest_s=2.0, seed=1
    )
    chaos.run(seconds, **options)
    return chaos


def test_help_lists_all_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(f"{name} " in said and kind.text in said for name, kind in KINDS.items())


def test_every_kind_comes_as_often_as_the_others_is_ended_and_recovered_from() -> None:
    training = Played(3)
    faults = _run(training, list(KINDS), 600.0, most_faults=4 * len(KINDS)).faults
    assert sorted(fault.kind for fault in faults) == sorted([*KINDS] * 4)
    for number, fault in enumerate(faults):
        kind = KINDS[fault.kind]
        assert fault.time_to_recover_s is not None
        assert fault.recovered_s is not None
        assert fault.ended_s is not None
        assert fault.ended_s >= fault.began_s + fault.duration_s
        assert 0.3 <= fault.duration_s <= 2.0 if kind.end else fault.duration_s == 0.0
        assert (len(fault.servers) == 3) == kind.all_servers
        # No server has two faults at a time.
        for later in faults[number + 1 :]:
            apart = later.began_s >= fault.recovered_s
            assert apart or not set(fault.servers) & set(later.servers)
    for begin, end in (("SIGSTOP server", "SIGCONT server"), ("hold", "release"),
                       ("SIGSTOP learner", "SIGCONT learner")):  # fmt: skip
        begun = sum(done.startswith(begin) for done in training.done)
        assert begun == sum(done.startswith(end) for done in training.done) == 4
    # The same seed gives the same faults.
    assert faults == _run(Played(3), list(KINDS), 600.0, most_faults=4 * len(KINDS)).faults


def test_what_does_not_come_back_is_no_recovery() -> None:
    training = Played(1, recovers=False)
    (fault,) = _run(training, ["cut"], 600.0, most_faults=1).faults
    assert fault.recovered_s is None
    assert training.now_s() > RECOVERY_LIMIT_S


def test_a_training_that_does_not_begin_is_said() -> None:
    training = Played(0)
    training.servers = [PlayedServer(0, training)]
    training.look = lambda: setattr(training, "_now_s", training._now_s + 5)  # type: ignore[method-assign]
    with pytest.raises(Unready, match="only 0 of 1 environment servers"):
        _run(training, ["cut"], 1.0)
