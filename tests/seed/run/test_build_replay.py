"""`seed-learner` with replay: what is put together, and how a run goes on with its replay."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from seed.config.loading import parse_command_line
from seed.config.schema import Config, ConfigError
from seed.contract import load_algorithm_config
from seed.inference.forward import GroupRows, InferenceBatch
from seed.learner.replay import Replay
from seed.learner.sources import QueueSource
from seed.run import build
from seed.run.parts import Run
from seed.run.resume import find_checkpoint
from seed.wire import messages

pytestmark = pytest.mark.usefixtures("describes_here")
FILE = """
local_envservers = 0
[environment]
kind = "function"
id = "envservers.tasks.catch:make"
[network]
hidden_sizes = [4]
lstm_size = 3
[inference]
address = "tcp://127.0.0.1:*"
max_envs = 4
evaluation_share = 0.25
[learner]
unroll_length = 5
batch_size = 2
[replay]
capacity_rows = 60
burn_in = 2
min_rows = 10
in_checkpoint = true
[algorithm]
name = "r2d2"
dueling_size = 4
"""
Assemble = Callable[..., Run]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def configure(file: Path, *overrides: object) -> Config:
    words = [file, "--run-dir", file.parent / "run", *overrides]
    return parse_command_line([str(word) for word in words], load_algorithm_config).config


@pytest.fixture
def assemble(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Assemble]:
    """Puts a run together, from its newest checkpoint; the sockets are closed afterwards."""
    monkeypatch.setattr("seed.inference.loop._FAREWELL_MS", 5)
    runs: list[Run] = []

    def put_together(*overrides: object) -> Run:
        config = configure(file, *overrides)
        runs.append(build.assemble(config, find_checkpoint(config)))
        return runs[-1]

    yield put_together
    stopped = threading.Event()
    stopped.set()
    for run in runs:
        run.inference.run(stopped, lambda: "it never ran")


def replay_of(run: Run) -> Replay:
    return cast(Replay, run.learner._source)


def play(run: Run, rows: int) -> None:
    """So many rows of every environment, stored as inference stores them."""
    column = run.store.layout.observation
    envs = np.arange(4)
    for row in range(rows):
        arrays = messages.StepArrays(
            np.ones(4, np.uint64), np.full((4, *column.shape), row / rows, np.float32),
            np.zeros(4, np.float32), np.full(4, messages.FIRST * (row == 0), np.uint8),
            np.empty(0, messages.EPISODE_DTYPE),
        )  # fmt: skip
        _, complete = run.inference._forward.run(InferenceBatch.of([GroupRows(envs, arrays)]))
        run.store.publish(complete)


def learn(run: Run) -> None:
    """Inserts some unrolls, makes an update, and leaves a checkpoint."""
    play(run, 16)
    assert replay_of(run).wait(0.0)
    run.learner._learn_once()
    stopped = threading.Event()
    stopped.set()
    run.learner.run(stopped)


def test_the_store_is_made_for_replay(assemble: Assemble) -> None:
    run = assemble()
    layout = run.store.layout
    assert (layout.replay_unrolls, layout.burn_in, layout.evaluation_share) == (12, 2, 0.25)
    assert isinstance(run.learner._source, Replay)
    # Of 3 * 4 environments, a queue of 2 and two batches.
    assert layout.num_pages == 12 + 3 * 4 + 2 * (2 + 2)


def test_initial_priorities_are_the_algorithms(
    assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def note(unroll: Any, config: Any) -> Any:
        asked.append(config)
        return unroll.rows.rewards.sum(dim=0) + 2.5

    monkeypatch.setattr("seed.algorithms.r2d2.initial_priorities", note)
    run = assemble()
    play(run, 16)
    assert replay_of(run).wait(0.0)
    assert set(replay_of(run)._priorities.priorities().tolist()) == {2.5}
    assert set(asked) == {run.config.algorithm}


def test_without_initial_priorities_all_start_alike(
    assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("seed.algorithms.r2d2.initial_priorities")
    run = assemble()
    play(run, 16)
    assert replay_of(run).wait(0.0)
    assert set(replay_of(run)._priorities.priorities().tolist()) == {1.0}


def test_batches_are_drawn_by_seed_and_progress(assemble: Assemble) -> None:
    def draw(run: Run) -> float:
        return replay_of(run)._priorities._rng.random()

    run = assemble()
    drawn = draw(run)
    assert draw(assemble()) == drawn
    assert draw(assemble("--seed", run.config.seed + 1)) != drawn
    run.inference.env_steps = 1
    learn(run)
    assert draw(assemble()) != drawn


def test_a_run_goes_on_with_its_replay(assemble: Assemble) -> None:
    run = assemble()
    learn(run)
    other = assemble()
    assert len(replay_of(other)) == len(replay_of(run)) > 2
    assert replay_of(other).scalars() == replay_of(run).scalars()
    assert (
        replay_of(other)._priorities.priorities().tolist()
        == replay_of(run)._priorities.priorities().tolist()
    )
    play(other, 16)
    assert replay_of(other).wait(0.0)
    other.learner._learn_once()
    assert other.learner.learner_steps == 2


def test_without_replay_in_the_checkpoint_it_starts_empty(
    assemble: Assemble, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = assemble("--replay.no-in-checkpoint")
    learn(run)
    assert list(run.learner._saver.folder.glob("*/replay")) == []
    for word in ("--replay.in-checkpoint", "--replay.no-in-checkpoint"):
        other = assemble(word)
        assert other.learner.learner_steps == 1
        assert len(replay_of(other)) == 0
    assert "replay holds" not in caplog.text
    assert "replay starts" not in caplog.text


def test_a_replay_in_the_checkpoint_may_be_left_there(assemble: Assemble) -> None:
    learn(assemble())
    other = assemble("--replay.no-in-checkpoint")
    assert other.learner.learner_steps == 1
    assert len(replay_of(other)) == 0


@pytest.mark.parametrize("reason", ["torn", "of another form"])
def test_a_replay_that_cannot_be_used_is_left_with_a_warning(
    assemble: Assemble, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    learn(assemble())
    if reason == "torn":
        (rows,) = assemble().learner._saver.folder.glob("*/replay/rewards.npy")
        rows.write_bytes(rows.read_bytes()[:-1])
        other = assemble()
    else:
        other = assemble("--replay.burn-in", 1)
    assert other.learner.learner_steps == 1
    assert len(replay_of(other)) == 0
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith("replay starts empty: ")
    learn(other)


def test_queue_algorithms_have_no_replay(assemble: Assemble, file: Path) -> None:
    head, _ = file.read_text().split("[replay]")
    file.write_text(head + '[algorithm]\nname = "vtrace"\n')
    run = assemble()
    assert isinstance(run.learner._source, QueueSource)
    assert run.store.layout.num_pages == 3 * 4 + 2 * (2 + 2)
    assert (run.store.layout.replay_unrolls, run.store.layout.burn_in) == (0, 0)
    assert run.learner._saver._save_replay is None


@pytest.mark.parametrize(
    ("override", "value", "reason"),
    [
        ("capacity-rows", 0, "replay.capacity_rows = 0, replay.capacity_gib = 0.0: give one"),
        ("capacity-rows", 10**12, "the store's 200000000020 pages of 5 rows take"),
        ("min-rows", 61, r"expected at least 13 \(replay.min_rows = 61\)"),
        ("device", "cuda:99", "replay.device = 'cuda:99': no such device here"),
        ("burn-in", 5, "replay.burn_in = 5: expected at most 4"),
        ("ratio", 0, "replay.ratio = 0.0: expected a finite number above 0"),
    ],
)
@pytest.mark.parametrize("start", [build.dry_run, lambda config: build.assemble(config, None)])
def test_a_dry_run_refuses_what_a_run_would(
    file: Path, start: Callable[[Config], object], override: str, value: object, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        start(configure(file, f"--replay.{override}", value))


def test_a_dry_run_says_how_much_replay_holds(file: Path) -> None:
    text = build.dry_run(configure(file, "--replay.capacity-rows", 60_000))
    (line,) = [line for line in text.splitlines() if "a store of" in line]
    assert line.startswith("# a store of 0.0")
    assert line.endswith(" GiB on cpu, for a replay of 12,000 unrolls")


def test_a_run_of_another_environment_is_refused(assemble: Assemble) -> None:
    learn(assemble())
    with pytest.raises(ConfigError, match=r"is a run of 'function envservers\.tasks\.catch:make'"):
        assemble("--environment.id", "envservers.tasks.memory_chain:make")
    assert len(replay_of(assemble())) > 0
