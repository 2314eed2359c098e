"""Kills are far apart, and what is compared is of the right times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from tools.chaos.chaos import RECOVERY_LIMIT_S
from tools.chaos.faults import Fault
from tools.chaos.others import kill_one_by_one, main, summarize, to_text
from tools.chaos.pace import Ratios, Trial
from tools.chaos.report import Course, Result
from tools.chaos.training import Training

WINDOW_S = 2.0
_BACK_S = 1.5


class Played:
    """Stands in for a training: time passes with each look, and the killed are started anew."""

    def __init__(self, comes_back: bool = True) -> None:
        self.servers = [PlayedServer(index) for index in range(3)]
        self.made_s: dict[int, float] = {0: 0.0, 1: 0.0, 2: 0.0}
        self.comes_back = comes_back
        self.killed: list[tuple[str, str, float]] = []
        self._now_s = 0.0

    def now_s(self) -> float:
        return self._now_s

    def look(self) -> None:
        self._now_s += 0.05
        for server in self.servers:
            if server.dead_s is not None and self._now_s >= server.dead_s + WINDOW_S:
                server.process, server.dead_s = server.process + "'", None
                server.born_s = self._now_s
            if self.comes_back and self._now_s >= server.born_s + _BACK_S:
                self.made_s[server.index] = server.born_s + 0.1

    def signal(self, process: str, number: Any) -> None:
        self.killed.append((process, number.name, self._now_s))
        [victim] = [server for server in self.servers if server.process == process]
        victim.dead_s = self._now_s


class PlayedServer:
    def __init__(self, index: int) -> None:
        self.index, self.process = index, f"server {index}"
        self.dead_s: float | None = None
        self.born_s = -10.0


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.chaos.others.time.sleep", lambda seconds: None)


def _kill(training: Played, kills: int, seed: int = 1) -> list[Trial]:
    return kill_one_by_one(cast(Training, training), kills, WINDOW_S, seed)


@pytest.mark.usefixtures("at_once")
def test_every_window_is_undisturbed() -> None:
    training = Played()
    trials = _kill(training, 5)
    assert [number for _, number, _ in training.killed] == ["SIGKILL"] * 5
    quiet_since_s = 0.0
    for trial, (process, _, killed_s) in zip(trials, training.killed, strict=True):
        fault = trial.fault
        assert process.startswith(f"server {fault.servers[0]}")
        assert fault.began_s == killed_s
        # Two windows for the control and one before the kill, none of which have a time in common.
        assert quiet_since_s <= trial.control_s - WINDOW_S
        assert trial.control_s + WINDOW_S <= killed_s - WINDOW_S
        assert fault.ended_s is not None
        assert fault.ended_s >= killed_s + WINDOW_S
        assert fault.time_to_recover_s == pytest.approx(_BACK_S, abs=0.2)
        assert fault.recovered_s is not None
        quiet_since_s = fault.recovered_s
    # The window after the last restart has passed too.
    assert trials[-1].fault.ended_s is not None
    assert training.now_s() >= trials[-1].fault.ended_s + WINDOW_S


@pytest.mark.usefixtures("at_once")
def test_the_seed_chooses_who_is_killed() -> None:
    first, again, other = ([t.fault.servers for t in _kill(Played(), 8, s)] for s in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.usefixtures("at_once")
def test_who_does_not_come_back_is_not_waited_for_for_ever() -> None:
    training = Played(comes_back=False)
    [trial] = _kill(training, 1)
    assert trial.fault.recovered_s is None
    assert training.now_s() > RECOVERY_LIMIT_S


def _summary(**changes: Any) -> dict[str, Any]:
    faults = [Fault("kill-envserver", (n,), 2.0, 10.0, 12.0, 13.0 + n) for n in range(3)]
    trials = [Trial(fault, 6.0, 0.5 + n / 4) for n, fault in enumerate(faults)]
    ratios = [Ratios(0.9, 0.7, 1.0), Ratios(1.0, 0.8, 0.98), Ratios(0.97, 0.9, 1.02)]
    known: dict[str, Any] = {
        "faults": faults, "unrolls_checked": 1234, "unrolls_wrong": 0, "unrolls_damaged": 0,
        "resumes": [], "checkpoint_interval_s": 5.0, "restarts": {}, "unexpected": [],
        "noticed_s": [], "growth": None, "exit_code": 75, "course": Course(1.0, 1, None, None),
    }  # fmt: skip
    return summarize(trials, ratios, Result(**known | changes))


def test_the_report_says_medians_and_ranges() -> None:
    figures = _summary()
    assert figures["failures"] == []
    text = to_text(figures, WINDOW_S)
    rows = [line.split("  ") for line in text.splitlines()]
    for name, ratio in (
        ("a kill", "0.97 (0.90–1.00)"), ("the restart", "0.80 (0.70–0.90)"),
        ("nothing (control)", "1.00 (0.98–1.02)"),
    ):  # fmt: skip
        assert [name, ratio] in [[row[0], row[-1].strip()] for row in rows]
    assert "3 of 3, median 2.0 s, most 3.0 s" in text
    assert "1,234 checked, 0 wrong" in text
    assert "0.75 (0.50–1.00) of" in text


def test_a_wrong_unroll_is_a_failure() -> None:
    assert _summary(unrolls_wrong=1)["failures"] == ["1 unrolls were wrong"]


def test_a_real_server_is_killed_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    tiny = (
        "--kills", "1", "--servers", "2", "--envs", "4", "--sleep-s", "0.002", "--window-s", "1",
    )  # fmt: skip
    assert main([*tiny, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    [trial] = figures["trials"]
    assert trial["ended_s"] >= trial["began_s"] + 1
    assert trial["recovered_s"] > trial["ended_s"]
    assert figures["unrolls_wrong"] == 0
    assert figures["unrolls_checked"] > 20
    # The others went on.
    assert trial["ratios"]["kill"] > 0
    assert "a kill" in capsys.readouterr().out
