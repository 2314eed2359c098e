"""Lines of metrics.jsonl from the threads' records, and the files they go to."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from seed.config.schema import ConfigError
from seed.inference.loop import BatchRecord, EpisodeRecord, Inference
from seed.learner.loop import Progress, UpdateRecord
from seed.run.build import Run
from seed.run.metrics import EVALUATION_WINDOW, RETURN_WINDOW, Line, MetricsWindow, Writer
from tests.seed.configs import make_config
from tests.seed.conftest import Build

START = Progress()


class Lines:
    """A window of a run's own parts, whose threads' records and counts a test gives."""

    def __init__(self, run: Run, frames_per_step: int = 1, start: Progress = START) -> None:
        self.run = run
        self._window = MetricsWindow(frames_per_step, start)

    def close(
        self,
        progress: Progress = START,
        *records: BatchRecord | EpisodeRecord | UpdateRecord,
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


def test_a_line_of_nothing_has_every_promised_name(run: Run) -> None:
    line = Lines(run).close()
    for name in ("time_s", "env_frames", "env_steps", "learner_steps", "fps",
                 "episode_return_count", "evaluation_return_count", "inference_paused_share",
                 ):  # fmt: skip
        assert line[name] == 0, name
    for name in ("episode_return_mean", "evaluation_return_mean", "policy_lag_mean",
                 "inference_batch_mean"):  # fmt: skip
        assert line[name] is None, name


def test_frames_are_steps_times_action_repeat(run: Run) -> None:
    lines = Lines(run, 4, Progress(env_steps=100, time_s=10.0))
    first = lines.close(Progress(env_steps=150, learner_steps=6, time_s=15.0))
    assert (first["env_steps"], first["env_frames"], first["learner_steps"]) == (150, 600, 6)
    assert first["time_s"] == 15.0
    assert first["fps"] == pytest.approx(40.0)
    assert lines.close(Progress(151, 6, 17.0))["fps"] == pytest.approx(2.0)
    # Within no time.
    assert math.isfinite(lines.close(Progress(152, 6, 17.0))["fps"] or 0)


def test_batches_are_of_this_line_only(run: Run) -> None:
    lines = Lines(run)
    line = lines.close(START, BatchRecord(10, 0.001), BatchRecord(20, 0.003))
    assert line["inference_batch_mean"] == 15
    assert line["inference_latency_p50_ms"] == pytest.approx(2.0)
    assert line["inference_latency_p99_ms"] == pytest.approx(2.98)
    assert lines.close()["inference_batch_mean"] is None


@pytest.mark.parametrize(
    ("evaluation", "name", "newest"),
    [(False, "episode", RETURN_WINDOW), (True, "evaluation", EVALUATION_WINDOW)],
)
def test_returns_are_of_the_newest_episodes(
    run: Run, evaluation: bool, name: str, newest: int
) -> None:
    def played(*returns: float) -> list[EpisodeRecord]:
        return [EpisodeRecord(0, value, 1, evaluation) for value in returns]

    lines = Lines(run)
    line = lines.close(START, *played(2.0, 4.0))
    assert (line[f"{name}_return_mean"], line[f"{name}_return_count"]) == (3.0, 2)
    # Without new episodes, the old ones stand.
    assert lines.close()[f"{name}_return_mean"] == 3.0
    line = lines.close(START, *played(*[8.0] * (newest - 1)))
    assert line[f"{name}_return_mean"] == pytest.approx(8.0 - 4.0 / newest)
    assert line[f"{name}_return_count"] == newest + 1


def test_evaluation_environments_count_apart(run: Run) -> None:
    episodes = [EpisodeRecord(0, 2.0, 10, False), EpisodeRecord(1, 9.0, 500, True),
                EpisodeRecord(2, 4.0, 30, False)]  # fmt: skip
    line = Lines(run).close(START, *episodes, BatchRecord(3, 0.1))
    assert (line["episode_return_mean"], line["episode_return_count"]) == (3.0, 2)
    assert line["episode_length_steps_mean"] == 20.0
    assert (line["evaluation_return_mean"], line["evaluation_return_count"]) == (9.0, 1)


def test_pauses_are_a_share_of_the_lines_time(run: Run) -> None:
    lines = Lines(run, start=Progress(time_s=100.0))
    shares = [
        lines.close(Progress(time_s=time_s), paused_s=paused_s)["inference_paused_share"]
        for time_s, paused_s in ((110.0, 4.0), (120.0, 4.0), (140.0, 24.0), (140.001, 24.02))
    ]
    # A pause may have begun before the line's time.
    assert shares == pytest.approx([0.4, 0.0, 1.0, 1.0])


def test_phases_are_shares_of_the_lines_time(run: Run) -> None:
    lines = Lines(run, start=Progress(time_s=100.0))
    lines.close(
        Progress(time_s=110.0), acting={"waiting": 4.0, "forward": 6.0}, learning={"waiting": 1.0}
    )
    line = lines.close(
        Progress(time_s=130.0), acting={"waiting": 14.0, "forward": 6.0, "paused": 10.0},
        learning={"waiting": 2.0, "loss": 19.0},
    )  # fmt: skip
    shares = {name: share for name, share in line.items() if "_share_" in name}
    assert shares == pytest.approx({
        "inference_share_waiting": 0.5, "inference_share_forward": 0.0,
        "inference_share_paused": 0.5, "learner_share_waiting": 0.05, "learner_share_loss": 0.95,
    })  # fmt: skip


def test_update_scalars_are_means_over_the_updates_that_have_them(run: Run) -> None:
    lines = Lines(run)
    line = lines.close(
        START,
        UpdateRecord({}, 3.0, 0.0),
        UpdateRecord({"loss": 1.0, "policy_lag_mean": 2.0}, 0.0, 0.5),
        UpdateRecord({"loss": 3.0, "policy_lag_mean": 3.0, "seldom": 8.0}, 0.0, 0.5),
    )
    assert (line["loss"], line["policy_lag_mean"], line["seldom"]) == (2.0, 2.5, 8.0)
    assert line["learner_utilisation"] == pytest.approx(0.25)
    assert lines.close()["policy_lag_mean"] is None


def test_says_how_the_threads_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inference, "num_envs", 7)
    monkeypatch.setattr(type(run.store), "num_ready", 5)
    monkeypatch.setattr(type(run.store), "rows_dropped", 3)
    monkeypatch.setattr(Inference, "messages_refused", 2)
    monkeypatch.setattr(Inference, "messages_dropped", 6)
    run.inference.faults.total, run.inference.faults.num_quarantined = 4, 1
    run.learner._saver.failed, run.learner._updates.guard.skipped = 1, 8
    said = {
        "num_envs": 6, "queue_length": 5, "rows_dropped": 3, "messages_refused": 2,
        "messages_dropped": 6, "env_faults": 4, "envs_quarantined": 1, "checkpoints_failed": 1,
        "updates_skipped": 8,
    }  # fmt: skip
    line = Lines(run).close()
    assert {name: line[name] for name in said} == said


def read(run_dir: Path) -> list[Line]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_appended_over_restarts(tmp_path: Path) -> None:
    for frames in (1, 2):
        writer = Writer(tmp_path)
        writer.write({"env_frames": frames, "loss": 0.5})
        # A reader sees a line as soon as it is written.
        assert read(tmp_path)[-1] == {"env_frames": frames, "loss": 0.5}
        writer.close()
    assert [line["env_frames"] for line in read(tmp_path)] == [1, 2]
    assert any((tmp_path / "tensorboard").iterdir())


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


def test_tensorboard_forgets_what_is_played_again(tmp_path: Path) -> None:
    for start, frames in ((0, (10, 20, 30)), (20, (25, 40))):
        writer = Writer(tmp_path, start)
        for at in frames:
            writer.write({"env_frames": at, "loss": float(start)})
        writer.close()
        # Names begin with the second that they were made in, and two of one second have no order.
        if not start:
            (path,) = (tmp_path / "tensorboard").iterdir()
            path.rename(path.with_name("events.out.tfevents.0"))
    assert shown(tmp_path) == [(10, 0.0), (20, 0.0), (25, 20.0), (40, 20.0)]


def delete(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "tensorboard")
    (run_dir / "metrics.jsonl").unlink()


def rotate(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").rename(run_dir / "metrics.jsonl.1")
    (run_dir / "tensorboard").rename(run_dir / "tensorboard.1")


def restore_a_copy(run_dir: Path) -> None:
    rotate(run_dir)
    shutil.copy(run_dir / "metrics.jsonl.1", run_dir / "metrics.jsonl")
    shutil.copytree(run_dir / "tensorboard.1", run_dir / "tensorboard")


@pytest.mark.parametrize("change", [delete, rotate, restore_a_copy])
def test_files_that_are_taken_away_are_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None]
) -> None:
    writer = Writer(tmp_path)
    writer.write({"env_frames": 1, "loss": 0.5})
    change(tmp_path)
    for frames in (2, 3):
        writer.write({"env_frames": frames, "loss": 0.25})
    writer.close()
    kept = [1] if change is restore_a_copy else []
    assert [line["env_frames"] for line in read(tmp_path)] == [*kept, 2, 3]
    assert [step for step, _ in shown(tmp_path)] == [*kept, 2, 3]
    assert caplog.text.count("metrics.jsonl was deleted or moved; its lines go on in a new") == 1
    assert caplog.text.count("TensorBoard's file was deleted or moved") == 1 - len(kept)


def test_a_line_for_which_no_file_can_be_made_is_lost_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(tmp_path)
    path = tmp_path / "metrics.jsonl"
    for frames, is_folder in ((1, False), (2, True), (3, False)):
        path.unlink() if path.is_file() else path.rmdir()
        if is_folder:
            path.mkdir()
        writer.write({"env_frames": frames})
    writer.close()
    assert read(tmp_path) == [{"env_frames": 3}]
    assert caplog.text.count("a line of metrics.jsonl is lost") == 1


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
@pytest.mark.parametrize("kind", ["folder", "file", "pipe", "link"])
def test_refuses_what_is_in_the_place_of_its_files(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == {"metrics.jsonl": "file", "tensorboard": "folder"}[name]:
        return
    match kind:
        case "folder":
            path.mkdir()
        case "file":
            path.touch()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(tmp_path / "missing disk" / name)
    with pytest.raises(ConfigError, match=rf"{name}: cannot be written \("):
        Writer(tmp_path)
