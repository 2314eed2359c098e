"""Spaces come from a process of their own: whatever the environment does, it is not done here."""

from __future__ import annotations

import locale
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seed.config.schema import Config, EnvironmentConfig, LocalConfig
from seed.run import description
from seed.run.description import Spaces, UnusableEnvironment, describe
from seed.wire.spaces import SpaceSpec
from tests.waiting import DEADLINE_S, is_running, wait_for

ROOT = Path(__file__).parents[3]
SPACES = Spaces(SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 2))
HARMLESS = (
    "nothing", "take_signals", "change_folder", "set_variables", "print_much", "replace_streams",
    "close_streams", "read_input", "start_threads", "change_numpy", "change_torch",
    "change_python", "change_process", "end_its_group", "end_its_parent", "fork_and_return_twice",
)  # fmt: skip
WAITER = """
import signal, sys
from seed.config.schema import Config, EnvironmentConfig
from seed.run.description import describe
environment = EnvironmentConfig(kind="function", id="tests.seed.deeds:make_with_helpers",
                                kwargs={"file": sys.argv[1], "waits": True})
# As it is not where the tests run in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
describe(Config(environment=environment, module_folders=(sys.argv[2],)))
"""


def config(function: str = "make", timeout_s: float = 300.0, **kwargs: bool | str) -> Config:
    return Config(
        environment=EnvironmentConfig(
            kind="function", id=f"tests.seed.deeds:{function}", kwargs={**kwargs}
        ),
        local=LocalConfig(step_timeout_s=timeout_s),
        module_folders=(str(ROOT),),
    )


def state() -> dict[str, Any]:
    """What an environment could change about this process."""
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "files": sorted(os.listdir("/proc/self/fd")),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "threads": threading.active_count(),
        "numpy": (str(np.random.get_state()), np.geterr(), np.get_printoptions()),
        "torch": (torch.get_rng_state().tolist(), torch.get_default_dtype(),
                  torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()),
        "python": (random.getstate(), sys.getrecursionlimit(), sys.path[:], sys.getswitchinterval(),
                   warnings.filters[:], logging.root.level, logging.root.manager.disable,
                   logging.root.handlers[:], locale.setlocale(locale.LC_NUMERIC)),
        "process": (os.nice(0), resource.getrlimit(resource.RLIMIT_NOFILE), os.getpgid(0)),
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
    }  # fmt: skip


def refusal(of: Config) -> str:
    with pytest.raises(UnusableEnvironment) as caught:
        describe(of)
    return str(caught.value)


@pytest.mark.parametrize("deed", HARMLESS)
def test_nothing_that_an_environment_does_is_done_to_this_process(
    deed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = state()
    assert describe(config(deed=deed)) == SPACES
    assert state() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("deed", ["raise_something", "leave", "crash", "leave_politely", "hang"])
def test_an_environment_need_not_be_closed_well(
    deed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert describe(config("make_closing", deed=deed)) == SPACES
    assert deed == "hang" or capfd.readouterr() == ("", "")


def test_nothing_that_it_has_started_is_left(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    assert describe(config("make_with_helpers", file=str(file))) == SPACES
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 5
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_where_this_process_ends_meanwhile(
    tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "pids"
    process = subprocess.Popen(
        [sys.executable, "-c", WAITER, str(file), str(ROOT)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    wait_for(file.exists)
    pids = [int(pid) for pid in file.read_text().split()]
    assert all(map(is_running, pids))
    process.send_signal(number)
    process.wait(DEADLINE_S)
    wait_for(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize(
    ("deed", "reason", "words"),
    [
        ("raise_something", " cannot be made: AttributeError: no viewer yet", ()),
        ("leave_politely", " cannot be made: SystemExit: no licence", ()),
        ("leave", ": it ended its process with exit code 3", (r"no licence:\x1b[31m stopping",)),
        ("crash", ": its process was ended by signal 11 (Segmentation fault)",
         ("about to read a null pointer", "Fatal Python error: Segmentation fault", "in crash")),
        ("run_out_of_memory",
         ": its process was ended by signal 9 (Killed), as where memory runs out", ()),
        ("hang", ": it was not made within 1 s (local.step_timeout_s)", ("deeds.py", "in hang")),
    ],
)  # fmt: skip
def test_what_cannot_be_made_says_why_and_what_it_said_last(
    deed: str, reason: str, words: tuple[str, ...]
) -> None:
    timeout_s = 1.0 if deed == "hang" else 300.0
    first, *rest = refusal(config(deed=deed, timeout_s=timeout_s)).split("\n")
    said = "; it printed:" if words else ""
    assert first == f"environment 'tests.seed.deeds:make'{reason}{said}"
    assert all(line.startswith("    ") for line in rest)
    for word in words:
        assert word in "\n".join(rest)
    assert bool(rest) == bool(words)


def test_what_cannot_be_sent_is_refused() -> None:
    unsupported = replace(Config(), environment=EnvironmentConfig(id="Blackjack-v1"))
    assert refusal(unsupported).startswith("observation space Tuple(")


@pytest.mark.parametrize(("silent_s", "said"), [(0.0, 1), (DEADLINE_S, 0)])
def test_says_what_it_is_at_where_that_takes_long(
    silent_s: float, said: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(description, "_SILENT_S", silent_s)
    caplog.set_level("INFO")
    assert describe(config(deed="nothing")) == SPACES
    assert caplog.messages == [
        "making one environment to learn its spaces, for 300 s at most (local.step_timeout_s)"
    ] * said


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ([str(ROOT / "no-such-python")],
         "no process can be started to make one in (No such file or directory)"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"],
         "the process that was to make one ended (exit code -9)"),
    ],
)  # fmt: skip
def test_a_maker_that_does_not_start_or_is_killed_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, command: list[str], reason: str
) -> None:
    monkeypatch.setattr(description, "python_command", lambda *_: command)
    assert refusal(config(deed="nothing")) == f"environment: {reason}"
