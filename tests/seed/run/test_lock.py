"""One learner at a time in a run's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seed.config.schema import ConfigError
from seed.run import lock as run_lock
from seed.run.lock import RunLock, RunTaken, hold_run
from tests.seed.entries import put

PATIENCE_S = 300.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_PATIENCE_S", 0.0)


def assert_taken(run_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"another learner still works there after 0 s; stop"):
        RunLock(run_dir)
# Holds the lock, with a process of its own that outlives it, and says that one's number.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from seed.run.lock import hold_run
with hold_run(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                             stdout=2, close_fds=False)
    print(child.pid, flush=True)
    time.sleep(600)
"""


# Where a run is refused, nothing tells that it was ever tried.
@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("there", ["nothing", "folder", "lock"])
def test_what_was_made_for_a_run_goes_again_unless_it_is_accepted(
    tmp_path: Path, there: str, accepted: bool
) -> None:
    run_dir = tmp_path / "a" / "run"
    if there != "nothing":
        run_dir.mkdir(parents=True)
    if there == "lock":
        (run_dir / "lock").touch()
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        with hold_run(run_dir) as lock:
            assert [path.name for path in run_dir.iterdir()] == ["lock"]
            if accepted:
                lock.accept()
    assert sorted(tmp_path.rglob("*")) == (
        [tmp_path / "a", run_dir, run_dir / "lock"] if accepted else before
    )
    # What others have put there stays.
    with hold_run(tmp_path / "b" / "run"):
        (tmp_path / "b" / "notes").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["notes"]


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


def test_a_killed_learner_gives_its_lock_back_though_its_children_live(
    tmp_path: Path, impatient: None
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            assert_taken(tmp_path)
            holder.kill()
            holder.wait()
            os.kill(child, 0)
            RunLock(tmp_path).release()
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "locks"),
    [(errno.ENOLCK, False), (errno.EOPNOTSUPP, False), (errno.ENOSYS, False), (errno.EIO, True)],
)
def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int,
    locks: bool,
) -> None:  # fmt: skip
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    if locks:
        with pytest.raises(ConfigError, match="cannot be locked"):
            RunLock(tmp_path)
    else:
        with hold_run(tmp_path), hold_run(tmp_path):
            assert f"{tmp_path} cannot be locked ({os.strerror(number)}); see to it" in caplog.text


@pytest.mark.parametrize("kind", ["file", "link", "loop"])
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "odd", kind)
    why = "cannot be written" if kind == "file" else ".* is a link that leads nowhere"
    for path in (tmp_path / "odd", tmp_path / "odd" / "run"):
        with pytest.raises(ConfigError, match=rf"run_dir = .*: {why}"):
            RunLock(path)


# The file that it waits for is taken away, by a learner that is refused.
def test_who_waits_gets_the_lock_of_a_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    run_dir = tmp_path / "run"
    refused = RunLock(run_dir)
    flock, tries = fcntl.flock, []

    def flock_late(descriptor: int, operation: int) -> None:
        """The first comes through only once its file is gone."""
        tries.append(descriptor)
        if len(tries) == 1:
            refused.release()
            assert not run_dir.exists()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    lock = RunLock(run_dir)
    assert len(tries) == 2
    assert not lock.check()
    assert_taken(run_dir)
    lock.release()


def change(run_dir: Path, how: str) -> None:
    if how == "delete lock":
        (run_dir / "lock").unlink()
        return
    moved = run_dir.rename(run_dir.with_name("moved"))
    if how == "restore a copy":
        shutil.copytree(moved, run_dir)
    elif how == "delete":
        shutil.rmtree(moved)


@pytest.mark.parametrize("how", ["delete", "move", "delete lock", "restore a copy"])
def test_a_folder_that_changes_is_held_again_by_whom_comes_first(
    tmp_path: Path, impatient: None, how: str
) -> None:
    run_dir = tmp_path / "run"
    with hold_run(run_dir) as lock:
        assert not lock.check()
        change(run_dir, how)
        assert lock.check()
        assert not lock.check()
        assert_taken(run_dir)
        shutil.rmtree(tmp_path / "moved", ignore_errors=True)
        change(run_dir, how)
        with hold_run(run_dir) as other:
            for _ in range(2):
                with pytest.raises(RunTaken, match="another learner works there now; this one"):
                    lock.check()
            assert not other.check()
            # A run takes place there.
            other.accept()
    assert (run_dir / "lock").exists()
    RunLock(run_dir).release()


def test_a_folder_that_cannot_be_made_again_is_an_error_each_time(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with hold_run(run_dir) as lock:
        change(run_dir, "delete")
        run_dir.touch()
        for _ in range(2):
            with pytest.raises(OSError, match="Not a directory"):
                lock.check()
        run_dir.unlink()
        assert lock.check()
    # A run had begun there.
    assert (run_dir / "lock").exists()


# Each would delete the other's unfinished checkpoints, and take whole ones for its own.
def test_two_runs_with_one_folder_of_checkpoints_are_kept_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with hold_run(first) as lock, hold_run(second) as other:
        (first / "checkpoints").mkdir()
        assert not lock.check()
        (second / "checkpoints").symlink_to(first / "checkpoints")
        for _ in range(2):
            with pytest.raises(RunTaken, match=r"second'.* which both have through a link"):
                other.check()
        (second / "checkpoints").unlink()
        (second / "checkpoints").mkdir()
        assert not other.check()
        (second / "link").symlink_to(second / "checkpoints")
    (first / "checkpoints").rmdir()
    (first / "checkpoints").symlink_to(second / "link")
    with hold_run(second), pytest.raises(RunTaken, match=r"first'.* a link"), hold_run(first):
        pass
    with hold_run(first):
        pass
