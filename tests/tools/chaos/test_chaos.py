"""Faults begin, end and are recovered from in a training that a test plays."""

from __future__ import annotations

from typing import Any, cast

import pytest

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


def test_every_kind_comes_as_often_as_the_others() -> None:
    chaos = _run(Played(3), list(KINDS), 600.0, most_faults=2 * len(KINDS))
    assert sorted(fault.kind for fault in chaos.faults) == sorted([*KINDS, *KINDS])
    assert all(fault.time_to_recover_s is not None for fault in chaos.faults)
    for fault in chaos.faults:
        assert fault.ended_s is not None
        assert fault.ended_s >= fault.began_s + fault.duration_s
        assert (len(fault.servers) == 3) == KINDS[fault.kind].all_servers


def test_what_lasts_is_ended() -> None:
    training = Played(2)
    chaos = _run(training, ["stop-envserver", "partition", "stop-learner"], 20.0)
    for begin, end in (("SIGSTOP server", "SIGCONT server"), ("hold", "release"),
                       ("SIGSTOP learner", "SIGCONT learner")):  # fmt: skip
        begun = sum(done.startswith(begin) for done in training.done)
        assert begun == sum(done.startswith(end) for done in training.done) > 0
    assert all(0.3 <= fault.duration_s <= 2.0 for fault in chaos.faults)


def test_no_server_has_two_faults_at_a_time() -> None:
    faults = _run(Played(2), ["kill-envserver", "partition", "kill-learner"], 30.0).faults
    assert len(faults) > 10
    for number, fault in enumerate(faults):
        for later in faults[number + 1 :]:
            if set(fault.servers) & set(later.servers):
                assert fault.recovered_s is not None
                assert later.began_s >= fault.recovered_s


def test_the_same_seed_gives_the_same_faults() -> None:
    first, second = (_run(Played(3), list(KINDS), 20.0).faults for _ in range(2))
    assert first == second


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
