"""The measurement of stepping runs and its parts do what they say; paces are not judged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools.bench.processes import usable_cores
from tools.bench.stepping import Pace, Task, main, make_stepping, measure_pace, start_steppers


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    tiny = ("--sizes", "2", "--delays", "0", "0.5", "--envs", "4", "--seconds", "0.1")
    assert main([*tiny, "--repetitions", "2", "--json", str(path)]) == 0
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_every_way_is_measured(figures: dict[str, Any]) -> None:
    assert [row["way"] for row in figures["ways"]] == [
        "process per core", "process per core, AtariGroup", "one process, thread per core",
        "one process, group per core at once",
    ]  # fmt: skip
    for row in figures["ways"]:
        assert row["group_size"] == 2
        assert row["steps_per_s"]["low"] > 0
        assert row["cpu_us"]["low"] > 0


def test_a_real_server_is_measured_at_every_delay(figures: dict[str, Any]) -> None:
    bare, *delayed = figures["overlap"]
    assert [row["server"] for row in delayed] == [
        "2 groups, delay 0", "2 groups, delay 0.5", "1 group, delay 0", "1 group, delay 0.5",
    ]  # fmt: skip
    assert bare["share"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert all(row["steps_per_s"]["median"] > 0 for row in delayed)
    # The supervisor itself does next to nothing: the time is that of the process it has started.
    assert max(row["cores"]["high"] for row in delayed) > 0


def test_settings_and_origin_are_kept(figures: dict[str, Any]) -> None:
    assert figures["origin"]["cores"] == len(usable_cores())
    assert figures["settings"] == {
        "sizes": [2], "delays": [0.0, 0.5], "envs": 4, "groups": 2, "seconds": 0.1,
        "repetitions": 2,
    }  # fmt: skip


class CountingEmulator:
    """Notes what is asked of it, with its number."""

    made = 0

    def __init__(self, game: str, num_envs: int, **options: Any) -> None:
        self.number, CountingEmulator.made = self.made, self.made + 1
        calls.append((self.number, num_envs, options["num_threads"]))

    def reset(self, seed: Any) -> None:
        assert len(seed) == 3

    def step(self, actions: Any) -> None:
        calls.append((self.number, "step", len(actions)))

    def send(self, actions: Any) -> None:
        calls.append((self.number, "send", len(actions)))

    def recv(self) -> None:
        calls.append((self.number, "recv"))


calls: list[tuple[Any, ...]] = []


@pytest.mark.parametrize(
    ("task", "made", "stepped"),
    [
        (Task("threads", 1, 3, threads=4), [(0, 3, 4)], [(0, "step", 3)]),
        (Task("emulator", 2, 3), [(0, 3, 1), (1, 3, 1)], [(0, "step", 3), (1, "step", 3)]),
        (
            Task("at once", 2, 3),
            [(0, 3, 1), (1, 3, 1)],
            [(0, "send", 3), (1, "send", 3), (0, "recv"), (1, "recv")],
        ),
    ],
)
def test_each_way_steps_all_its_groups_once(
    task: Task, made: list[Any], stepped: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.bench.stepping.AtariVectorEnv", CountingEmulator)
    monkeypatch.setattr(CountingEmulator, "made", 0)
    calls.clear()
    run = make_stepping(task)
    run()
    assert calls == made + stepped


class Answer:
    """A pipe to a process that has measured."""

    def __init__(self, steps: int, elapsed_s: float, cpu_s: float) -> None:
        self._messages: list[Any] = [(steps, elapsed_s, cpu_s), None]

    def send(self, message: object) -> None:
        pass

    def recv(self) -> Any:
        return self._messages.pop()


def test_processes_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    steppers = start_steppers(0)
    pipes = [Answer(100, 2.0, 1.0), Answer(300, 2.0, 3.0), Answer(1, 1.0, 1.0)]
    monkeypatch.setattr(steppers, "_pipes", pipes)
    assert measure_pace(steppers, Task("emulator", 1, 1), 2.0, count=2) == Pace(200.0, 10_000.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--envs", "5"), "--envs 5: expected a multiple of --groups 2"),
        (("--delays", "1", "-0.5"), "-0.5: expected a finite number of at least 0"),
        (("--seconds", "0"), "0: expected a finite time of more than 0 seconds"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert expected in capsys.readouterr().err
