"""A fault at every system call of a save: the checkpoints from before are as good as they were."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, SaveFailed
from seed.process.plain_files import write_file
from tests.seed.checkpoints import state_of

CALLS = ("mkdir", "open", "write", "fsync", "rename", "close")
KEEP = 2


class Killed(BaseException):
    """Stands for a SIGKILL: no handler cleans up behind it."""


class Shim:
    """Counts the system calls of a save and makes one of them fail, or the last of the process.

    A write that is the last puts half of its bytes on the disk.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fatal: int, kill: bool) -> None:
        self.calls: list[str] = []
        self._fatal, self._kill, self._dead = fatal, kill, False
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))
        # The dead delete nothing either.
        rmtree = shutil.rmtree
        monkeypatch.setattr(
            shutil, "rmtree", lambda *a, **k: None if self._dead else rmtree(*a, **k)
        )

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if self._dead and name == "close":
                return call(*arguments, **named)
            self.calls.append(name)
            if self._dead:
                raise Killed
            if len(self.calls) - 1 != self._fatal:
                return call(*arguments, **named)
            if name == "write":
                call(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])
            elif name == "close":
                call(*arguments)
            if self._kill:
                self._dead = True
                raise Killed
            raise OSError(28, "No space left on device")

        return wrapped


def sample(number: int) -> Checkpoint:
    return Checkpoint({"a": torch.arange(3) + number}, state_of(number))


def save_replay(folder: Path, sign: Callable[[], None]) -> None:
    folder.mkdir()
    descriptor = os.open(folder / "rows.bin", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, bytes(range(100)))
    finally:
        os.close(descriptor)


def save(folder: Path, number: int) -> Path:
    name = checkpoint.name_of(number, 0)
    return checkpoint.save(folder, name, sample(number), keep=KEEP, save_replay=save_replay)


def newest(folder: Path) -> int:
    """The number of the checkpoint that a restart would go on from, looked at closely."""
    loaded = checkpoint.load_newest(folder)
    assert loaded is not None
    assert loaded.path is not None
    number: int = loaded.state["env_frames"]
    assert torch.equal(loaded.tensors["a"], torch.arange(3) + number)
    replay = checkpoint.find_replay(loaded.path)
    assert replay is not None
    assert (replay / "rows.bin").read_bytes() == bytes(range(100))
    return number


def each_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: bool, prepare: Callable[[Path], None]
) -> Iterator[tuple[Path, Shim, BaseException]]:
    """A save for every system call that it makes, which fails there."""
    for fatal in range(1000):
        folder = tmp_path / str(fatal)
        prepare(folder)
        with monkeypatch.context() as patch:
            shim = Shim(patch, fatal, kill)
            try:
                save(folder, 9)
            except (SaveFailed, Killed) as error:
                failure: BaseException | None = error
            else:
                failure = None
        if len(shim.calls) <= fatal:
            assert failure is None
            assert fatal > 30, "all of it has been tried"
            return
        if failure is not None:
            yield folder, shim, failure
    raise AssertionError("it never ends")


def two_before(folder: Path) -> None:
    save(folder, 1)
    save(folder, 2)


def test_a_kill_at_any_call_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for folder, shim, failure in each_fault(tmp_path, monkeypatch, True, two_before):
        assert isinstance(failure, Killed)
        # Before its last name is given it is not there; afterwards it is whole.
        renamed = shim.calls.count("rename") - (shim.calls[-1] == "rename") > 0
        assert newest(folder) == (9 if renamed else 2)
        ends.append(newest(folder))
        # The next process sweeps up.
        save(folder, 10)
        assert newest(folder) == 10
        assert sorted(path.name[:7] for path in folder.iterdir()) == ["frames-"] * KEEP
    assert set(ends) == {2, 9}


def test_an_error_at_any_call_is_told_and_leaves_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0
    for folder, _, failure in each_fault(tmp_path, monkeypatch, False, two_before):
        assert isinstance(failure, SaveFailed)
        assert f"{checkpoint.name_of(9, 0)}: the checkpoint could not be written" in str(failure)
        assert newest(folder) in (2, 9)
        assert checkpoint.name_of(1, 0) in checkpoint.names(folder), "nothing was deleted for it"
        assert not list(folder.glob(".*")), "what was begun takes no room"
        failures += 1
    assert failures > 25


def test_a_torn_checkpoint_of_the_same_name_is_never_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn_before(folder: Path) -> None:
        save(folder, 2)
        (save(folder, 9) / checkpoint.TENSORS).write_bytes(b"torn")

    for folder, _, _ in each_fault(tmp_path, monkeypatch, True, torn_before):
        assert newest(folder) in (2, 9)
        save(folder, 9)
        assert newest(folder) == 9


def test_what_arrives_on_the_disk_otherwise_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def garble(part: str, path: Path, content: bytes) -> None:
        spoiled = bytearray(content)
        spoiled[-1] ^= path.name == part
        write_file(path, bytes(spoiled))

    # The replay's digest is of what was written.
    for part in (checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST):
        with monkeypatch.context() as patch:
            patch.setattr("seed.learner.checkpoint.writing.write_file", partial(garble, part))
            with pytest.raises(SaveFailed, match=rf"{part}: not as it was written"):
                save(tmp_path, 2)
        assert newest(tmp_path) == 1


def test_writes_that_take_a_part_at_a_time_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
        checkpoint.save(tmp_path, checkpoint.name_of(1, 0), sample(1), keep=1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded.state == state_of(1)


PROGRAM = """
import resource, sys
from pathlib import Path
import numpy, torch
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, SaveFailed
from seed.process.plain_files import write_file
folder = Path(sys.argv[1])
small = Checkpoint({"a": torch.zeros(10)}, {})
name_of = checkpoint.name_of
checkpoint.save(folder, name_of(1, 0), small, keep=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
def save_replay(folder, sign):
    folder.mkdir()
    numpy.save(folder / "rows.npy", numpy.zeros(50_000))
for number, tensor, replay in ((2, torch.zeros(50_000), None), (3, torch.zeros(1), save_replay)):
    try:
        checkpoint.save(
            folder, name_of(number, 0), Checkpoint({"a": tensor}, {}), keep=1, save_replay=replay
        )
    except SaveFailed as error:
        print(error)
    assert sorted(path.name for path in folder.iterdir()) == [name_of(1, 0)]
checkpoint.save(folder, name_of(4, 0), small, keep=1)
print(checkpoint.names(folder))
"""


# A limit on the size of files is what a full disk looks like that needs no disk.
def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / "c")]
    result = subprocess.run(program, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert ["could not be written" in line for line in lines] == [True, True, False]
    assert lines[2] == str([checkpoint.name_of(4, 0)])


# `python -m tests.seed.killed_saves FOLDER 1000` does it more often.
def test_kills_at_random_tear_nothing_that_is_believed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.seed.killed_saves", str(tmp_path / "c"), "30"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[4]
    )
    figures = json.loads(result.stdout)
    assert (figures["believed"], figures["lost"]) == (0, 0)
    assert figures["torn"] > 3, "some of the kills came during a save"
    assert figures["saved"] > 5
