"""One learner at a time in a run's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seed import run_lock
from seed.config import ConfigError
from seed.run_lock import hold_run

PATIENCE_S = 300.0
# Holds the lock, with a process of its own that outlives it, and says that one's number.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from seed.run_lock import hold_run
with hold_run(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                             stdout=2, close_fds=False)
    print(child.pid, flush=True)
    time.sleep(600)
"""


def test_a_folder_is_made_and_can_be_held_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        with hold_run(tmp_path / "a" / "run"):
            pass
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["lock"]


def test_the_next_learner_waits_for_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []
    tried_twice, held = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        tries.append(seconds)
        if len(tries) == 2:
            tried_twice.set()
        held.wait(0.01)

    def hold() -> None:
        with hold_run(tmp_path):
            held.set()

    monkeypatch.setattr(time, "sleep", sleep)
    waiting = threading.Thread(target=hold)
    with hold_run(tmp_path):
        waiting.start()
        assert tried_twice.wait(PATIENCE_S)
        assert not held.is_set()
    assert held.wait(PATIENCE_S)
    waiting.join()
    assert caplog.text.count(f"another learner works in {tmp_path}; waiting for it to end") == 1


def test_a_learner_that_stays_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_PATIENCE_S", 0.3)
    with (
        hold_run(tmp_path),
        pytest.raises(ConfigError, match=r"another learner still works there after 0\.3 s; stop"),
        hold_run(tmp_path),
    ):
        pass


def test_a_killed_learner_gives_its_lock_back_though_its_children_live(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            assert run_lock._try_lock(tmp_path) is None
            holder.kill()
            holder.wait()
            os.kill(child, 0)
            descriptor = run_lock._try_lock(tmp_path)
            assert descriptor is not None
            os.close(descriptor)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    refuse_locks(monkeypatch, number)
    with hold_run(tmp_path), hold_run(tmp_path):
        assert f"{tmp_path} cannot be locked ({os.strerror(number)}); see to it" in caplog.text


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_folder_that_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"run_dir = .*: cannot be written"), hold_run(path):
            pass
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(ConfigError, match="cannot be locked"), hold_run(tmp_path):
        pass
