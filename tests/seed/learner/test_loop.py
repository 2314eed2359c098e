"""The learner's loop: when it updates, publishes and saves, and how it goes on."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seed.algorithms import vtrace
from seed.config.schema import Config
from seed.learner import checkpoint
from seed.learner.checkpoint import CheckpointError
from seed.learner.loop import Progress
from tests.seed.learning import Kind, Setup, Targeting, make_batch, make_config, with_learner
from tests.seed.recording import record_on_cpu


def test_learns_until_the_frames_are_reached(tmp_path: Path) -> None:
    setup = Setup(tmp_path, make_config(30), 1.0, 2.0, 3.0, 4.0, 5.0)
    records = setup.run()
    assert setup.learner.learner_steps == len(records) == 3
    assert [record.scalars["seen"] for record in records] == [1.0, 2.0, 3.0]
    assert all(record.busy_s > 0 and record.wait_s >= 0 for record in records)


# Adam's step is the learning rate itself where the gradient never changes.
def test_the_learning_rate_falls_with_the_frames(tmp_path: Path) -> None:
    setup = Setup(tmp_path, make_config(40, final_learning_rate_fraction=0.5), *[1.0] * 4)
    rates = [record.scalars["learning_rate"] for record in setup.run()]
    assert rates == pytest.approx([0.1, 0.0875, 0.075, 0.0625])
    assert setup.weight == pytest.approx(1 - sum(rates), abs=1e-5)


@pytest.mark.parametrize(
    ("clip_norm", "observation", "clipped"), [(2.0, 1.0, 1.0), (2.0, 50.0, 2.0), (0.0, 5e3, 5e3)]
)
def test_the_gradient_is_clipped_by_its_norm_but_not_by_0(
    tmp_path: Path, clip_norm: float, observation: float, clipped: float
) -> None:
    setup = Setup(tmp_path, make_config(10, clip_norm=clip_norm), observation)
    (record,) = setup.run()
    assert record.scalars["grad_norm"] == pytest.approx(observation)
    assert setup.agent.weight.grad is not None
    assert setup.agent.weight.grad.item() == pytest.approx(clipped)


@pytest.mark.parametrize(("every", "versions"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (7, [])])
def test_weights_are_published_every_so_many_updates(
    tmp_path: Path, every: int, versions: list[int]
) -> None:
    setup = Setup(tmp_path, with_learner(make_config(50), publish_every_updates=every), *[1.0] * 5)
    setup.run()
    assert setup.slot.versions == versions
    setup.learner.publish()
    published = setup.slot.take()
    assert published is not None
    assert (published.version, published.tensors[0].item()) == (5, setup.weight)


# The burn-in does not count, nor the row that is only there to bootstrap from.
def test_policy_lag_counts_updates_since_the_rows_were_acted(tmp_path: Path) -> None:
    acted = [([0, 9], 0), ([90, 90, 0, 0, 50], 2), ([9, 1, 0, 50], 1), ([3, 50], 0)]
    batches = [make_batch(1.0, versions, burn_in) for versions, burn_in in acted]
    records = Setup(tmp_path, make_config(40), *batches).run()
    assert [record.scalars["policy_lag_mean"] for record in records] == [0.0, 1.0, 1.5, 0.0]


@pytest.mark.parametrize(("share", "lines"), [(0.25, 1), (0.0, 0)])
def test_clipped_rewards_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float, lines: int
) -> None:
    config = replace(make_config(30), algorithm=vtrace.Config(reward_clip=0.5))
    setup = Setup(tmp_path, config, *[1.0] * 3)
    setup.metrics = {"reward_clipped_share": torch.tensor(share)}
    with caplog.at_level(logging.INFO):
        assert len(setup.run()) == 3
    assert caplog.text.count("beyond ±algorithm.reward_clip = 0.5") == lines


def test_every_part_of_an_update_is_a_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(tmp_path, with_learner(make_config(20), publish_every_updates=2), 1.0, 1.0)
    entered: list[str] = []
    monkeypatch.setattr(setup.learner.phases, "enter", entered.append)
    monkeypatch.setattr(setup.learner.phases, "leave", lambda: entered.append(""))
    setup.run()
    update = ["waiting", "gather", "loss", "optimizer", "bookkeeping"]
    assert entered == [*update, "bookkeeping", *update, "publish", "bookkeeping", "checkpoint", ""]


def test_waiting_for_unrolls_is_recorded_and_can_be_stopped(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: setup.learner.run(stop))
    thread.start()
    record = setup.learner.records.get(timeout=300)
    stop.set()
    thread.join(300)
    assert not thread.is_alive()
    assert (record.scalars, record.busy_s) == ({"left": 0.0}, 0.0)
    assert record.wait_s > 0


@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
def test_graphs_make_the_same_updates_and_skip_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    observations = [1.0, -2.0, 0.5, 3.0, -1.0, 2.0, math.nan, 4.0]
    plain = Setup(tmp_path, make_config(kind=kind), *observations)
    plain.learn(8)
    record_on_cpu(monkeypatch)
    config = with_learner(make_config(kind=kind), cuda_graphs=True)
    graphs = Setup(tmp_path, config, *observations)
    graphs.learn(8)
    for record, expected in zip(graphs.records(), plain.records(), strict=True):
        assert record.scalars == pytest.approx(expected.scalars)
    assert graphs.learner.updates_skipped == plain.learner.updates_skipped == 1
    assert graphs.weight == pytest.approx(plain.weight)


# --- checkpoints -----------------------------------------------------------------------------


def test_leaves_a_checkpoint_when_it_is_stopped(tmp_path: Path) -> None:
    setup = Setup(tmp_path, env_steps=70)
    setup.run(stopped=True)
    assert not setup.learner.complete
    assert checkpoint.names(setup.checkpoints) == ["frames-00000000000140-updates-0000000000"]
    assert setup.newest().state == {
        "spaces": "kept", "env_steps": 70, "env_frames": 140, "learner_steps": 0, "time_s": 1.5,
        "optimizer": "adam",
    }  # fmt: skip
    # Where its last line of metrics is to be.
    assert setup.learner.ended_at == Progress(70, 0, 1.5)


# What decides is not how far the environments are by now, but what a checkpoint holds.
def test_a_run_is_complete_once_a_checkpoint_has_all_its_frames(tmp_path: Path) -> None:
    setup = Setup(tmp_path, make_config(70), env_steps=70)
    assert not setup.learner.complete
    setup.run()
    assert setup.learner.complete


# A kill before the first one costs all; afterwards, or where a run goes on, an interval.
def test_the_first_checkpoint_comes_early(tmp_path: Path) -> None:
    learner = Setup(tmp_path).learner
    saver, folder = learner._saver, tmp_path / "checkpoints"

    def saves_after(seconds: float) -> bool:
        """Whether a checkpoint is due so long after the one before."""
        saver._saved_s = time.monotonic() - seconds
        shutil.rmtree(folder, ignore_errors=True)
        if saver.is_due():
            saver.try_to_save(learner._state(Progress()))
        return folder.exists()

    assert not saves_after(0.0)
    assert saves_after(31.0)
    assert not saves_after(3000.0)
    assert saves_after(3601.0)
    learner.forget_checkpoints()
    assert saves_after(31.0)
    assert not saves_after(31.0)


# After each batch, at the frames at which it came; and at the end.
@pytest.mark.parametrize(("interval_s", "kept"), [(0.0, ["3", "4", "4"]), (3600.0, ["4"])])
def test_saves_as_often_as_it_was_told(tmp_path: Path, interval_s: float, kept: list[str]) -> None:
    config = replace(make_config(40, interval_s=interval_s), keep_checkpoints=3)
    setup = Setup(tmp_path, config, *[1.0] * 4)
    setup.run()
    assert [name[-1] for name in checkpoint.names(setup.checkpoints)] == kept


@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
def test_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path, kind: Kind) -> None:
    config = make_config(
        60, kind=kind, momentum=0.9, epsilon=0.01, final_learning_rate_fraction=0.1
    )
    observations = [1.0, -2.0, 0.5, 3.0, -1.0, 2.0]
    whole = Targeting(tmp_path / "whole", config, *observations)
    whole.run()

    half = Targeting(tmp_path / "halves", config, *observations[:3])
    stop = threading.Event()

    def stop_after_three(mean: Tensor) -> Tensor:
        if half.env_steps == 30:
            stop.set()
        return mean

    half.on_loss = stop_after_three
    half.learner.run(stop)
    other = Targeting(tmp_path / "halves", config, *observations[3:], env_steps=half.env_steps)
    nn.init.zeros_(other.agent.weight)
    other.learner.restore(half.newest())
    assert other.learner.learner_steps == 3
    restored, before = other.packed(), half.packed()
    assert restored.keys() == before.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in before.items())
    other.run()
    assert other.learner.learner_steps == 6
    assert other.weight == whole.weight != half.weight
    assert half.calls + other.calls == whole.calls


@pytest.mark.parametrize(("kept", "asked"), [("adam", "rmsprop_tf"), ("rmsprop_tf", "adam")])
def test_refuses_a_checkpoint_of_another_optimizer(tmp_path: Path, kept: Kind, asked: Kind) -> None:
    setup = Setup(tmp_path, make_config(10, kind=kept), 1.0)
    setup.run()
    other = Setup(tmp_path, make_config(kind=asked))
    with pytest.raises(CheckpointError, match=rf"is '{kept}', optimizer.kind = '{asked}': keep"):
        other.learner.restore(setup.newest())
    assert (other.weight, other.learner.learner_steps) == (1.0, 0)


def test_refuses_a_checkpoint_without_target(tmp_path: Path) -> None:
    setup = Setup(tmp_path, make_config(10), 1.0)
    setup.run()
    with pytest.raises(CheckpointError, match="of another network"):
        Targeting(tmp_path).learner.restore(setup.newest())


# --- target network and replay ---------------------------------------------------------------


def test_without_update_target_there_is_no_target_network(tmp_path: Path) -> None:
    setup = Setup(tmp_path, make_config(30), *[1.0] * 3)
    setup.run()
    assert setup.targets == [None] * 3
    assert not any(name.startswith("target") for name in setup.newest().tensors)


def test_the_target_is_a_copy_that_is_updated_after_every_update(tmp_path: Path) -> None:
    setup = Targeting(tmp_path, make_config(30), *[1.0] * 3)
    target = setup.learner._modules["target"]
    assert [parameter.requires_grad for parameter in target.parameters()] == [False]
    setup.run()
    assert setup.targets == [target] * 3
    steps, configs, agents, targets = zip(*setup.calls, strict=True)
    assert steps == (1, 2, 3)
    assert configs == (setup.config.algorithm,) * 3
    # The agent has made the update already; the target is still that of the loss.
    assert 1.0 > agents[0] > agents[1] > agents[2] == setup.weight
    assert targets == (1.0, 1.0, agents[1])


def test_priorities_go_back_to_where_the_unrolls_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = make_batch(1.0, numbers=[5, 9]), make_batch(3.0), make_batch(2.0, numbers=[7, 7])
    setup = Setup(tmp_path, None, *batches, make_batch(1.0, numbers=[1, 2]))
    setup.learn(3)
    monkeypatch.setattr(setup, "loss", lambda *a: Setup.loss(setup, *a)._replace(priorities=None))
    setup.learn()
    assert setup.learner.learner_steps == 4
    assert setup.source.updates == [([5, 9], [2.0, 2.0]), ([7, 7], [4.0, 4.0])]


def test_figures_of_the_source_are_recorded_even_while_waiting(tmp_path: Path) -> None:
    setup = Setup(tmp_path, None, 1.0, 1.0)
    for left in (1.0, 0.0, 0.0):
        setup.learn()
        assert setup.learner.records.get().scalars["left"] == left


def test_replay_is_saved_with_every_checkpoint(tmp_path: Path) -> None:
    def save(folder: Path, sign: Callable[[], None]) -> None:
        before = setup.learner.phases.heartbeats
        sign()
        assert setup.learner.phases.heartbeats == before + 1
        folder.mkdir()
        (folder / "numbers.json").write_text(str(setup.learner.learner_steps))

    setup = Setup(tmp_path, make_config(30), *[1.0] * 3, save_replay=save)
    setup.run()
    path = setup.newest().path
    assert path is not None
    found = checkpoint.find_replay(path)
    assert found is not None
    assert (found / "numbers.json").read_text() == "3"


# --- rounds ----------------------------------------------------------------------------------


class Rounds(Setup):
    """In lock-step: batches say at how many steps of the run they were whole."""

    def __init__(self, run_dir: Path, config: Config, env_steps: Sequence[int]) -> None:
        batches = [make_batch(1.0)._replace(env_steps=steps) for steps in env_steps]
        super().__init__(run_dir, config, *batches)
        self.source.lockstep = True
        # What inference is at by now: nothing may depend on it.
        self.env_steps = 10**9
        self.learner._reached = Progress()
        self.events: list[str] = []
        for owner, name in [
            (self.learner._updates, "learn"), (self.learner._saver, "save"),
            (self.slot, "publish"), (self.slot, "end_round"),
        ]:  # fmt: skip
            setattr(owner, name, self._noting(name, getattr(owner, name)))

    def _noting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            self.events.append(name)
            return call(*arguments)

        return note


def test_a_round_decides_rate_counters_and_end(tmp_path: Path) -> None:
    config = make_config(30, interval_s=0.0, final_learning_rate_fraction=0.5)
    setup = Rounds(tmp_path, replace(config, keep_checkpoints=9), [12, 24, 36, 48])
    records = setup.run()
    # The batch that reaches the total is learned from, and none after it.
    rates = [record.scalars["learning_rate"] for record in records]
    assert rates == pytest.approx([0.1 * (1 - 0.5 * share) for share in (0.4, 0.8, 1.0)])
    assert checkpoint.names(setup.checkpoints) == [
        checkpoint.name_of(frames, updates) for frames, updates in ((24, 1), (48, 2), (72, 3))
    ]
    assert setup.learner.ended_at == Progress(36, 3, 1.5)
    assert setup.newest().state["env_steps"] == 36
    assert setup.learner.complete
    assert len(setup.source.batches) == 1


def test_in_lockstep_what_is_saved_is_what_acts_next(tmp_path: Path) -> None:
    config = make_config(30, interval_s=0.0)
    setup = Rounds(tmp_path, config, [12, 24, 36])
    setup.run()
    round_ = ["learn", "save", "publish", "end_round"]
    # The end saves in any case, and once; nobody acts again.
    assert setup.events == [*round_, *round_, "learn", "publish", "save"]


def test_a_skipped_batch_ends_its_round_too(tmp_path: Path) -> None:
    setup = Rounds(tmp_path, make_config(100), [10, 20, 30])
    setup.on_loss = lambda loss: loss * (math.nan if len(setup.source.batches) == 1 else 1.0)
    for rounds in (1, 2, 3):
        setup.learn()
        assert setup.slot.rounds == rounds
    assert setup.learner.learner_steps == 2
    assert setup.events.count("publish") == 2


def test_a_run_that_goes_on_beyond_its_end_ends_at_once(tmp_path: Path) -> None:
    setup = Rounds(tmp_path, make_config(30), [12])
    setup.learner._reached = Progress(30)
    assert setup.run() == []
    assert setup.learner.complete


def test_without_a_batch_the_end_is_where_the_environments_are(tmp_path: Path) -> None:
    setup = Setup(tmp_path, make_config(30), 1.0)
    setup.env_steps = 30
    assert setup.run() == []
    assert setup.learner.ended_at == Progress(30, 0, 1.5)


# Another number of updates may come with every batch, and one may be skipped.
def test_publishing_counts_updates_since_the_last_time(tmp_path: Path) -> None:
    setup = Setup(tmp_path, with_learner(make_config(), publish_every_updates=3), *[1.0] * 6)
    expected = [(2, []), (5, [5]), (7, [5]), (8, [5, 8]), (8, [5, 8]), (20, [5, 8, 20])]
    for steps, published in expected:
        setup.learner._updates.learner_steps = steps - 1
        setup.learn()
        assert setup.slot.versions == published
