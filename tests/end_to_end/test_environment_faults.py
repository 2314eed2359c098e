"""Environments that fail, in a real run: learning goes on, and the learner says why."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import Command, Start, last_known, read_metrics, wait_until

COUNTER = Path("tests/outside/counter.toml")


def start_learner(start: Start, run_dir: Path, kwargs: str) -> tuple[Command, str]:
    """A learner whose environment servers have a faulty environment each; its address, too."""
    config = run_dir.with_suffix(".toml")
    environment = f'id = "tests.outside.faulty:make"\nkwargs = {{ {kwargs} }}'
    text, replaced = re.subn("id = .*counter:make.*", environment, COUNTER.read_text())
    assert replaced == 1
    config.write_text(text)
    learner = start(
        "seed-learner", config, "--run-dir", run_dir, "--local-envservers", 0,
        "--inference.address", "tcp://127.0.0.1:*", "--total-env-frames", 10**9,
    )  # fmt: skip
    found = re.search(r"tcp://\S+\d", learner.wait_for("listening on"))
    assert found is not None
    return learner, found.group()


def newest(run_dir: Path, name: str) -> float:
    lines: list[dict[str, Any]] = read_metrics(run_dir)
    return last_known(lines, name) if lines else 0


def go_on(run_dir: Path, steps: int = 2_000) -> None:
    """Waits until the run has made so many more steps."""
    goal = newest(run_dir, "env_steps") + steps
    wait_until(lambda: newest(run_dir, "env_steps") >= goal)


def end(learner: Command) -> None:
    """Every unroll was checked on the way: a wrong one would have ended the learner."""
    learner.process.send_signal(signal.SIGTERM)
    assert learner.wait() == 75, learner.text


def test_an_environment_that_always_raises_is_quarantined(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    learner, address = start_learner(start, run_dir, 'how = "raise"')
    server = start("seed-envserver", "--connect", address, "--num-envs", 8, "--name", "here")
    learner.wait_for("here: environment 3 of group 1 raised (restarts before: 0)")
    learner.wait_for("RuntimeError: the simulator fell over")
    learner.wait_for("here: environment 3 of group 1 raised (restarts before: 4), quarantined")
    go_on(run_dir)
    lines = read_metrics(run_dir)
    assert [last_known(lines, name) for name in ("env_faults", "envs_quarantined")] == [5, 1]
    assert last_known(lines, "num_envs") == 7
    # A row at most for each of its five histories: those of an environment that is down are none.
    assert last_known(lines, "rows_dropped") <= 5
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    wait_until(lambda: newest(run_dir, "envs_quarantined") == 0)
    end(learner)


@pytest.mark.parametrize(
    ("how", "kind", "reasons"),
    [
        # A fault takes as long as the timeout, which no healthy step on a busy machine may.
        pytest.param("hang", "hung", ["faulty.py", " in step"], marks=pytest.mark.slow),
        ("exit", "crashed", ["its process ended with exit code 0"]),
        pytest.param(
            "segfault", "crashed", ["faulty.py", " in step", "its process ended by SIGSEGV"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_environment_that_always_ends_its_process_is_quarantined(
    start: Start, tmp_path: Path, how: str, kind: str, reasons: list[str]
) -> None:
    """Its server is started anew each time; another one, which has none such, notices nothing."""
    run_dir = tmp_path / "run"
    learner, address = start_learner(start, run_dir, f'how = "{how}"')
    well = start("seed-envserver", "--connect", address, "--num-envs", 4, "--name", "well")
    go_on(run_dir, 200)
    # In one group, so that it gives no step before the one that ends its process.
    server = start("seed-envserver", "--connect", address, "--num-envs", 8, "--groups", 1,
                   "--name", "here", "--step-timeout-s", 8)  # fmt: skip
    learner.wait_for(f"here: environment 7 of group 0 {kind} (restarts before: 0), it is restarted")
    for reason in reasons:
        learner.wait_for(reason)
    go_on(run_dir, 200)
    learner.wait_for(f"here: environment 7 of group 0 {kind} (restarts before: 4), quarantined")
    go_on(run_dir)
    lines = read_metrics(run_dir)
    assert [last_known(lines, name) for name in ("env_faults", "envs_quarantined")] == [5, 1]
    assert last_known(lines, "num_envs") == 11
    assert server.text.count(f"its process {kind} in environment 7 of group 0") == 5
    assert learner.text.count("well connected") == 1
    assert "well left" not in learner.text
    assert [command.process.poll() for command in (well, server)] == [None, None]
    end(learner)


def test_a_hang_is_recovered_from(start: Start, tmp_path: Path) -> None:
    """A kill of the process: `tests/envservers/supervision/test_processes.py`."""
    run_dir = tmp_path / "run"
    marker = tmp_path / "has_hung"
    learner, address = start_learner(start, run_dir, f'how = "hang", at = 50, marker = "{marker}"')
    start("seed-envserver", "--connect", address, "--num-envs", 8, "--groups", 2,
          "--name", "here", "--step-timeout-s", 8)  # fmt: skip
    learner.wait_for("here: environment 3 of group 1 hung")
    assert "faulty.py" in learner.wait_for("in step")
    go_on(run_dir)
    lines = read_metrics(run_dir)
    assert [last_known(lines, name) for name in ("env_faults", "num_envs")] == [1, 8]
    end(learner)
