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
from collections.abc import Callable
from pathlib import Path

import pytest

from seed.config.schema import ConfigError
from seed.run import lock as run_lock
from seed.run.lock import RunLock, RunTaken, hold_run

PATIENCE_S = 300.0
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


def test_a_folder_is_made_and_can_be_held_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        with hold_run(tmp_path / "a" / "run") as lock:
            lock.accept()
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


def test_a_killed_learner_gives_its_lock_back_though_its_children_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_PATIENCE_S", 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(ConfigError, match="another learner still works there"):
                RunLock(tmp_path)
            holder.kill()
            holder.wait()
            os.kill(child, 0)
            RunLock(tmp_path).release()
        finally:
            holder.kill()
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


# Where a run is refused, nothing tells that it was ever tried.
@pytest.mark.parametrize("there", ["nothing", "folder", "lock"])
def test_what_was_made_for_a_run_that_is_refused_goes_again(tmp_path: Path, there: str) -> None:
    run_dir = tmp_path / "a" / "run"
    if there != "nothing":
        run_dir.mkdir(parents=True)
    if there == "lock":
        (run_dir / "lock").touch()
    before = sorted(tmp_path.rglob("*"))
    with hold_run(run_dir):
        assert (run_dir / "lock").exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_what_others_have_put_into_a_refused_run_stays(tmp_path: Path) -> None:
    with hold_run(tmp_path / "a" / "run"):
        (tmp_path / "a" / "notes").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes"]


# The file that it waits for is taken away, by a learner that is refused.
def test_who_waits_gets_the_lock_of_a_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr(run_lock, "_PATIENCE_S", 0.0)
    with pytest.raises(ConfigError, match="another learner still works there"):
        RunLock(run_dir)
    lock.release()


def delete(run_dir: Path) -> None:
    shutil.rmtree(run_dir)


def move(run_dir: Path) -> None:
    run_dir.rename(run_dir.with_name("moved"))


def delete_lock(run_dir: Path) -> None:
    (run_dir / "lock").unlink()


def restore_a_copy(run_dir: Path) -> None:
    move(run_dir)
    shutil.copytree(run_dir.with_name("moved"), run_dir)


@pytest.mark.parametrize("change", [delete, move, delete_lock, restore_a_copy])
def test_a_folder_that_changes_is_held_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(run_lock, "_PATIENCE_S", 0.0)
    run_dir = tmp_path / "run"
    with hold_run(run_dir) as lock:
        assert not lock.check()
        change(run_dir)
        assert lock.check()
        assert not lock.check()
        with pytest.raises(ConfigError, match="another learner still works there"):
            RunLock(run_dir)
    # A run had begun there.
    assert (run_dir / "lock").exists()
    RunLock(run_dir).release()


@pytest.mark.parametrize("change", [delete, move, delete_lock, restore_a_copy])
def test_who_comes_second_to_a_folder_that_changed_ends(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    run_dir = tmp_path / "run"
    with hold_run(run_dir) as lock:
        change(run_dir)
        with hold_run(run_dir) as other:
            for _ in range(2):
                with pytest.raises(RunTaken, match="another learner works there now; this one"):
                    lock.check()
            assert not other.check()


def test_a_folder_that_cannot_be_made_again_is_an_error_each_time(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with hold_run(run_dir) as lock:
        delete(run_dir)
        run_dir.touch()
        for _ in range(2):
            with pytest.raises(OSError, match="Not a directory"):
                lock.check()
        run_dir.unlink()
        assert lock.check()


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


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_a_link_that_leads_nowhere_is_called_so(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / target)
    for path in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(ConfigError, match="is a link that leads nowhere"), hold_run(path):
            pass
