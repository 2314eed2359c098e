"""Lines of metrics.jsonl from the threads' records, and the files they go to."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from seed.config.schema import ConfigError
from seed.inference.loop import BatchRecord, EpisodeRecord, Inference, Record, RoundRecord
from seed.learner.loop import Progress, UpdateRecord
from seed.run.build import Run
from seed.run.metrics import EVALUATION_WINDOW, RETURN_WINDOW, Line, MetricsWindow, Writer
from seed.store.unrolls import UnrollStore
from tests.seed.configs import make_config
from tests.seed.conftest import Build
from tests.seed.entries import put

START = Progress()


class Lines:
    """A window of a run's own parts, whose threads' records and counts a test gives."""

    def __init__(
        self, run: Run, frames_per_step: int = 1, start: Progress = START, *, lockstep: bool = False
    ) -> None:
        self.run = run
        self._window = MetricsWindow(frames_per_step, start, lockstep=lockstep)

    def close(
        self,
        progress: Progress = START,
        *records: Record | UpdateRecord,
        paused_s: float = 0.0,
        acting: Mapping[str, float] = MappingProxyType({}),
        learning: Mapping[str, float] = MappingProxyType({}),
    ) -> Line:
        """The line after these records."""
        inference, learner = self.run.inference, self.run.learner
        for record in records:
            if isinstance(record, UpdateRecord):
                learner.records.put(record)
            else:
                inference.records.put(record)
        inference.paused_s = paused_s
        inference.phases._seconds, learner.phases._seconds = dict(acting), dict(learning)
        return self._window.close(progress, inference, learner, self.run.store)


@pytest.fixture
def run(build: Build, tmp_path: Path) -> Run:
    return build(make_config(run_dir=str(tmp_path / "run")))


def test_a_line_of_nothing_has_every_promised_name_and_says_how_the_threads_are(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Lines(run).close()
    for name in ("time_s", "env_frames", "env_steps", "learner_steps", "fps",
                 "episode_return_count", "evaluation_return_count", "inference_paused_share",
                 ):  # fmt: skip
        assert line[name] == 0, name
    for name in ("episode_return_mean", "evaluation_return_mean", "policy_lag_mean",
                 "inference_batch_mean"):  # fmt: skip
        assert line[name] is None, name
    for owner, name, value in (
        (Inference, "num_envs", 7), (Inference, "messages_refused", 2),
        (Inference, "messages_dropped", 6), (UnrollStore, "num_ready", 5),
        (UnrollStore, "rows_dropped", 3),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, value)
    run.inference.faults.total, run.inference.faults.num_quarantined = 4, 1
    run.learner._saver.failed, run.learner._updates.guard.skipped = 1, 8
    run.learner._updates.unrolls_left_out = 5
    assert expected(Lines(run).close(), {
        "num_envs": 6, "queue_length": 5, "rows_dropped": 3, "messages_refused": 2,
        "messages_dropped": 6, "env_faults": 4, "envs_quarantined": 1, "checkpoints_failed": 1,
        "updates_skipped": 8, "unrolls_left_out": 5,
    })  # fmt: skip


def test_a_line_is_of_the_time_since_the_one_before(run: Run) -> None:
    lines = Lines(run, 4, Progress(env_steps=100, time_s=100.0))
    updates = [
        UpdateRecord({}, 3.0, 0.0), UpdateRecord({"loss": 1.0, "policy_lag_mean": 2.0}, 0.0, 0.5),
        UpdateRecord({"loss": 3.0, "policy_lag_mean": 3.0, "seldom": 8.0}, 0.0, 0.5),
    ]  # fmt: skip
    line = lines.close(
        Progress(150, 6, 110.0), BatchRecord(10, 0.001), BatchRecord(20, 0.003), *updates,
        paused_s=4.0, acting={"waiting": 4.0, "forward": 6.0}, learning={"waiting": 1.0},
    )  # fmt: skip
    assert expected(line, {
        "time_s": 110.0, "env_steps": 150, "env_frames": 600, "learner_steps": 6, "fps": 20.0,
        "inference_batch_mean": 15, "inference_latency_p50_ms": 2.0,
        "inference_latency_p99_ms": 2.98, "inference_paused_share": 0.4,
        # Means over the updates that have them.
        "loss": 2.0, "policy_lag_mean": 2.5, "seldom": 8.0, "learner_utilisation": 0.25,
    })  # fmt: skip
    line = lines.close(
        Progress(150, 6, 130.0), paused_s=14.0,
        acting={"waiting": 14.0, "forward": 6.0, "paused": 10.0},
        learning={"waiting": 2.0, "loss": 19.0},
    )  # fmt: skip
    assert expected(line, {
        "fps": 0.0, "inference_batch_mean": None, "policy_lag_mean": None, "loss": None,
        "inference_paused_share": 0.5, "inference_share_waiting": 0.5,
        "inference_share_forward": 0.0, "inference_share_paused": 0.5,
        "learner_share_waiting": 0.05, "learner_share_loss": 0.95,
    })  # fmt: skip
    # A pause may have begun before the line's time.
    assert lines.close(Progress(151, 6, 130.001), paused_s=14.02)["inference_paused_share"] == 1.0
    # Within no time.
    assert math.isfinite(lines.close(Progress(152, 6, 130.001))["fps"] or 0)


def expected(line: Line, figures: Line) -> bool:
    return {name: line[name] for name in figures} == pytest.approx(figures)


@pytest.mark.parametrize(
    ("evaluation", "name", "newest"),
    [(False, "episode", RETURN_WINDOW), (True, "evaluation", EVALUATION_WINDOW)],
)
def test_returns_are_of_the_newest_episodes(
    run: Run, evaluation: bool, name: str, newest: int
) -> None:
    def played(*returns: float) -> list[EpisodeRecord]:
        return [EpisodeRecord(0, value, 10 * int(value), evaluation) for value in returns]

    lines = Lines(run)
    # Evaluation environments count apart.
    line = lines.close(START, *played(2.0, 4.0), EpisodeRecord(1, 9.0, 500, not evaluation))
    assert (line[f"{name}_return_mean"], line[f"{name}_return_count"]) == (3.0, 2)
    assert line["episode_length_steps_mean"] == (500.0 if evaluation else 30.0)
    # Without new episodes, the old ones stand.
    assert lines.close()[f"{name}_return_mean"] == 3.0
    line = lines.close(START, *played(*[8.0] * (newest - 1)))
    assert line[f"{name}_return_mean"] == pytest.approx(8.0 - 4.0 / newest)
    assert line[f"{name}_return_count"] == newest + 1


def test_in_lock_step_a_line_ends_with_a_round(run: Run) -> None:
    lines = Lines(run, lockstep=True)

    def close(now: Progress, *records: Record | UpdateRecord) -> tuple[Any, ...]:
        line = lines.close(now, *records)
        return (line["env_steps"], line["learner_steps"], line["time_s"], line["fps"],
                line["episode_return_count"], line["inference_batch_mean"])  # fmt: skip

    batches = [BatchRecord(rows, 0.1) for rows in (1, 2, 3, 4)]
    episode = EpisodeRecord(0, 1.0, 1, False)
    # A round that the learner is at work on, and one that has begun.
    first = (batches[0], episode, RoundRecord(), batches[1], episode, RoundRecord(), batches[2])
    learned = [UpdateRecord({}, 0.0, 0.1, Progress(10 * n, n, 2.0 * n)) for n in (1, 2, 3)]
    assert close(Progress(25, 2, 5.0), *first, learned[0]) == (10, 1, 5.0, 5.0, 1, 1)
    assert close(Progress(27, 2, 6.0), UpdateRecord({}, 0.1, 0.0)) == (10, 1, 6.0, None, 1, None)
    later: list[Record | UpdateRecord] = [episode, RoundRecord(), *learned[1:], batches[3]]
    assert close(Progress(35, 3, 7.0), *later) == (30, 3, 7.0, 5.0, 3, 2.5)


def read(run_dir: Path) -> list[Line]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_appended_over_restarts_and_tensorboard_forgets_what_is_played_again(
    tmp_path: Path,
) -> None:
    for start, frames in ((0, (10, 20, 30)), (20, (25, 40))):
        writer = Writer(tmp_path, start)
        for at in frames:
            writer.write({"env_frames": at, "loss": float(start)})
            # A reader sees a line as soon as it is written.
            assert read(tmp_path)[-1] == {"env_frames": at, "loss": start}
        writer.close()
        # Names begin with the second that they were made in, and two of one second have no order.
        if not start:
            (path,) = (tmp_path / "tensorboard").iterdir()
            path.rename(path.with_name("events.out.tfevents.0"))
    assert [line["env_frames"] for line in read(tmp_path)] == [10, 20, 30, 25, 40]
    assert shown(tmp_path) == [(10, 0.0), (20, 0.0), (25, 20.0), (40, 20.0)]


def test_what_is_no_number_becomes_null_and_is_not_shown(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for at, value in enumerate((0.5, math.nan, math.inf, -math.inf, None, 0.25)):
        writer.write({"env_frames": 40 * at, "loss": value})
    writer.close()
    assert [line["loss"] for line in read(tmp_path)] == [0.5, None, None, None, None, 0.25]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert shown(tmp_path) == [(0, 0.5), (200, 0.25)]


class Full:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, path: Path, room: int) -> None:
        self._file = path.open("ab", buffering=0)
        self.room = room
        self.seek, self.truncate, self.close = (
            self._file.seek, self._file.truncate, self._file.close
        )  # fmt: skip
        self.fileno = self._file.fileno

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._file.write(content[: self.room]) or 0
        self.room -= written
        return written


def test_a_full_disk_costs_whole_lines_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(tmp_path)
    writer._lines.close()
    lines: Any = Full(tmp_path / "metrics.jsonl", 60)
    writer._lines = lines
    for frames, room in ((1, 60), (2, 5), (3, 0), (4, 60)):
        lines.room = room
        writer.write({"env_frames": frames})
    writer.close()
    assert read(tmp_path) == [{"env_frames": 1}, {"env_frames": 4}]
    assert caplog.text.count("a line of metrics.jsonl is lost") == 2


def test_without_tensorboard_the_lines_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(tmp_path)

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    board: Any = writer._board
    monkeypatch.setattr(board, "flush", fail)
    writer.write({"env_frames": 1, "loss": 1.0})
    writer.write({"env_frames": 2, "loss": 1.0})
    monkeypatch.undo()
    board.close()
    writer.close()
    assert [line["env_frames"] for line in read(tmp_path)] == [1, 2]
    assert caplog.text.count("TensorBoard's file ends here") == 1


def shown(run_dir: Path) -> list[tuple[int, float]]:
    """What TensorBoard shows of the loss."""
    events: Any = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


@pytest.mark.parametrize("change", ["delete", "rotate", "restore a copy"])
def test_files_that_are_taken_away_are_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    run_dir, moved = tmp_path / "run", tmp_path / "moved"
    run_dir.mkdir()
    writer = Writer(run_dir)
    writer.write({"env_frames": 1, "loss": 0.5})
    moved.mkdir()
    for path in sorted(run_dir.iterdir()):
        path.rename(moved / path.name)
    if change == "restore a copy":
        shutil.copytree(moved, run_dir, dirs_exist_ok=True)
    elif change == "delete":
        shutil.rmtree(moved)
    for frames in (2, 3):
        writer.write({"env_frames": frames, "loss": 0.25})
    kept = [1] if change == "restore a copy" else []
    assert [line["env_frames"] for line in read(run_dir)] == [*kept, 2, 3]
    assert caplog.text.count("metrics.jsonl was deleted or moved; its lines go on in a new") == 1
    assert caplog.text.count("TensorBoard's file was deleted or moved") == 1 - len(kept)
    # A line for which no file can be made is lost alone.
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "metrics.jsonl").mkdir()
    writer.write({"env_frames": 4, "loss": 0.25})
    assert caplog.text.count("a line of metrics.jsonl is lost") == 1
    (run_dir / "metrics.jsonl").rmdir()
    writer.write({"env_frames": 5, "loss": 0.25})
    writer.close()
    assert [line["env_frames"] for line in read(run_dir)] == [5]
    assert [step for step, _ in shown(run_dir)] == [*kept, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
@pytest.mark.parametrize("kind", ["folder", "file", "pipe", "link"])
def test_refuses_what_is_in_the_place_of_its_files(tmp_path: Path, name: str, kind: str) -> None:
    if kind != {"metrics.jsonl": "file", "tensorboard": "folder"}[name]:
        put(tmp_path / name, kind)
        with pytest.raises(ConfigError, match=rf"{name}: cannot be written \("):
            Writer(tmp_path)
