"""The training step: when it updates, publishes and saves, and how it goes on."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seed.algorithms import vtrace
from seed.device.transfer import move
from seed.learner import checkpoint
from seed.learner.checkpoint import CheckpointError
from seed.learner.loop import Progress
from seed.store.rows import Unroll
from tests.seed.learning import (
    BATCH,
    Kind,
    Setup,
    loaded_newest,
    make_config,
    run,
    total,
    with_learner,
)
from tests.seed.recording import record_on_cpu


def test_learns_until_the_frames_are_reached(tmp_path: Path) -> None:
    setup = Setup(tmp_path, total(make_config(), 30))
    setup.feed([1.0, 2.0, 3.0, 4.0, 5.0])
    records = run(setup)
    assert setup.learner.learner_steps == len(records) == 3
    # Every unroll once, the oldest first, its pages given back; row T is the next one's first.
    assert [record.scalars["seen"] for record in records] == pytest.approx([4 / 3, 7 / 3, 10 / 3])
    assert setup.store.num_ready == 2 * BATCH
    assert all(record.busy_s > 0 and record.wait_s >= 0 for record in records)


# Adam's step is the learning rate itself where the gradient never changes.
def test_the_learning_rate_falls_with_the_frames(tmp_path: Path) -> None:
    setup = Setup(tmp_path, total(make_config(final_learning_rate_fraction=0.5), 40))
    setup.feed([1.0] * 4)
    rates = [record.scalars["learning_rate"] for record in run(setup)]
    assert rates == pytest.approx([0.1, 0.0875, 0.075, 0.0625])
    assert setup.weight == pytest.approx(1 - sum(rates), abs=1e-5)


def test_the_gradient_is_clipped_by_its_norm(tmp_path: Path) -> None:
    config = make_config(kind="rmsprop_tf", clip_norm=2.0, decay=0.0, epsilon=1e-12)
    norms, steps = [], []
    for observation in (1.0, 50.0):
        setup = Setup(tmp_path / str(observation), total(config, 10))
        setup.learner._optimizer.register_step_pre_hook(
            lambda optimizer, *_: steps.append(optimizer.param_groups[0]["params"][0].grad.item())
        )
        setup.feed([observation])
        norms += [record.scalars["grad_norm"] for record in run(setup)]
    assert norms == pytest.approx([1.0, 50.0])
    assert steps == pytest.approx([1.0, 2.0])


def test_clip_norm_zero_clips_nothing(tmp_path: Path) -> None:
    setup = Setup(tmp_path, total(make_config(clip_norm=0.0), 10))
    setup.feed([5000.0])
    assert run(setup)[0].scalars["grad_norm"] == pytest.approx(5000.0)
    assert setup.agent.weight.grad is not None
    assert setup.agent.weight.grad.item() == pytest.approx(5000.0)


@pytest.mark.parametrize(("every", "versions"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (7, [])])
def test_weights_are_published_every_so_many_updates(
    tmp_path: Path, every: int, versions: list[int]
) -> None:
    config = with_learner(total(make_config(), 50), publish_every_updates=every)
    setup = Setup(tmp_path, config)
    setup.feed([1.0] * 5)
    run(setup)
    assert setup.slot.versions == versions
    published = setup.slot.take()
    assert (published is None) == (not versions)
    if published and every == 1:
        assert published.tensors[0].item() == setup.weight


def test_policy_lag_counts_updates_since_the_rows_were_acted(tmp_path: Path) -> None:
    setup = Setup(tmp_path, total(make_config(), 40))
    setup.feed([1.0, 1.0], policy_version=0)
    setup.feed([1.0, 1.0], policy_version=2)
    assert [record.scalars["policy_lag_mean"] for record in run(setup)] == [0, 1, 0, 1]


@pytest.mark.parametrize(("share", "lines"), [(0.25, 1), (0.0, 0)])
def test_clipped_rewards_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float, lines: int
) -> None:
    config = replace(total(make_config(), 30), algorithm=vtrace.Config(reward_clip=0.5))
    setup = Setup(tmp_path, config)
    setup.metrics = {"reward_clipped_share": torch.tensor(share)}
    setup.feed([1.0] * 3)
    with caplog.at_level(logging.INFO):
        assert len(run(setup)) == 3
    assert caplog.text.count("beyond ±algorithm.reward_clip = 0.5") == lines


def test_every_part_of_an_update_is_a_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_learner(total(make_config(), 20), publish_every_updates=2)
    setup = Setup(tmp_path, replace(config, checkpoint_interval_s=3600.0))
    setup.feed([1.0, 1.0])
    entered: list[str] = []
    monkeypatch.setattr(setup.learner.phases, "enter", entered.append)
    monkeypatch.setattr(setup.learner.phases, "leave", lambda: entered.append(""))
    run(setup)
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
    assert record.scalars == {}
    assert (record.wait_s > 0, record.busy_s) == (True, 0.0)


def test_leaves_a_checkpoint_when_it_is_stopped(tmp_path: Path) -> None:
    setup = Setup(tmp_path, env_steps=70)
    stop = threading.Event()
    stop.set()
    setup.learner.run(stop)
    assert not setup.learner.complete
    assert checkpoint.names(setup.checkpoints) == ["frames-00000000000140-updates-0000000000"]
    state = loaded_newest(setup).state
    assert state == {
        "spaces": "kept", "env_steps": 70, "env_frames": 140, "learner_steps": 0, "time_s": 1.5,
        "optimizer": "adam",
    }  # fmt: skip
    # Where its last line of metrics is to be.
    assert setup.learner.ended_at == Progress(70, 99, 1.5)


# A kill before the first one costs all; afterwards, or where a run goes on, an interval.
def test_the_first_checkpoint_comes_early(tmp_path: Path) -> None:
    learner = Setup(tmp_path, replace(make_config(), checkpoint_interval_s=3600.0)).learner
    saver, folder = learner._saver, tmp_path / "checkpoints"

    def saves_after(seconds: float) -> bool:
        """Whether a checkpoint is due so long after the one before."""
        saver._saved_s = time.monotonic() - seconds
        shutil.rmtree(folder, ignore_errors=True)
        saver.save_if_due(lambda: learner._state(Progress()))
        return folder.exists()

    assert not saves_after(0.0)
    assert saves_after(31.0)
    assert not saves_after(3000.0)
    assert saves_after(3601.0)
    learner.forget_checkpoints()
    assert saves_after(31.0)
    assert not saves_after(31.0)


# What decides is not how far the environments are by now, but what a checkpoint holds.
def test_a_run_is_complete_once_a_checkpoint_has_all_its_frames(tmp_path: Path) -> None:
    setup = Setup(tmp_path, total(make_config(), 70), env_steps=70)
    assert not setup.learner.complete
    run(setup)
    assert setup.learner.complete


def test_saves_as_often_as_it_was_told(tmp_path: Path) -> None:
    config = replace(total(make_config(), 40), checkpoint_interval_s=0.0, keep_checkpoints=2)
    setup = Setup(tmp_path, config)
    setup.feed([1.0] * 4)
    run(setup)
    assert checkpoint.names(setup.checkpoints) == [
        "frames-00000000000060-updates-0000000003", "frames-00000000000080-updates-0000000004",
    ]  # fmt: skip
    setup = Setup(tmp_path / "seldom", replace(config, checkpoint_interval_s=3600.0))
    setup.feed([1.0] * 4)
    run(setup)
    assert len(checkpoint.names(setup.checkpoints)) == 1


@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
def test_graphs_make_the_same_updates_and_skip_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    observations = [1.0, -2.0, 0.5, 3.0, -1.0, 2.0]
    plain = Setup(tmp_path, make_config(kind=kind))
    record_on_cpu(monkeypatch)
    graphs = Setup(tmp_path, with_learner(make_config(kind=kind), cuda_graphs=True))
    for observation in observations:
        for setup in (plain, graphs):
            setup.feed([observation], policy_version=1)
            setup.learner._learn_once()
        assert graphs.weight == pytest.approx(plain.weight)
    for record, expected in zip(graphs.records(), plain.records(), strict=True):
        assert record.scalars == pytest.approx(expected.scalars)
    graphs.feed([math.nan])
    graphs.learner._learn_once()
    assert graphs.learner.updates_skipped == 1
    assert graphs.weight == pytest.approx(plain.weight)
    for setup in (plain, graphs):
        setup.feed([4.0])
        setup.learner._learn_once()
    assert graphs.weight == pytest.approx(plain.weight)


@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
def test_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path, kind: Kind) -> None:
    config = make_config(kind=kind, momentum=0.9, epsilon=0.01, final_learning_rate_fraction=0.1)
    observations = [1.0, -2.0, 0.5, 3.0, -1.0, 2.0]
    whole = Setup(tmp_path / "whole", total(config, 60))
    for observation in observations:
        whole.feed([observation])
    run(whole)

    half = Setup(tmp_path / "halves", total(config, 60))
    for observation in observations[:3]:
        half.feed([observation])
    stop = threading.Event()

    def stop_after_three(mean: Tensor) -> Tensor:
        if half.env_steps == 30:
            stop.set()
        return mean

    half.on_loss = stop_after_three
    half.learner.run(stop)
    other = Setup(tmp_path / "halves", total(config, 60), env_steps=half.env_steps)
    nn.init.zeros_(other.agent.weight)
    other.learner.restore(loaded_newest(half))
    assert other.learner.learner_steps == 3
    restored = checkpoint.pack({"agent": other.agent}, other.learner._optimizer)
    before = checkpoint.pack({"agent": half.agent}, half.learner._optimizer)
    assert restored.keys() == before.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in before.items())
    for observation in observations[3:]:
        other.feed([observation])
    run(other)
    assert other.learner.learner_steps == 6
    assert other.weight == whole.weight
    assert whole.weight != half.weight


@pytest.mark.parametrize(("kept", "asked"), [("adam", "rmsprop_tf"), ("rmsprop_tf", "adam")])
def test_refuses_a_checkpoint_of_another_optimizer(tmp_path: Path, kept: Kind, asked: Kind) -> None:
    setup = Setup(tmp_path, total(make_config(kind=kept), 10))
    setup.feed([1.0])
    run(setup)
    other = Setup(tmp_path, make_config(kind=asked))
    with pytest.raises(CheckpointError, match=rf"is '{kept}', optimizer.kind = '{asked}': keep"):
        other.learner.restore(loaded_newest(setup))
    assert other.weight == 1.0
    assert other.learner.learner_steps == 0


def test_refuses_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    setup = Setup(tmp_path, total(make_config(), 10))
    setup.feed([1.0])
    run(setup)
    loaded = loaded_newest(setup)
    loaded.tensors["agent.weight"] = torch.zeros(2, 1)
    with pytest.raises(CheckpointError, match="of another network"):
        Setup(tmp_path).learner.restore(loaded)


def test_publish_hands_over_the_present_weights(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.learner.publish()
    published = setup.slot.take()
    assert published is not None
    assert published.version == 0
    assert torch.equal(published.tensors[0], setup.agent.weight)


def test_move_reaches_every_tensor(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.feed([1.0])
    pages = setup.store.take(BATCH, 0)
    assert pages is not None
    unroll = setup.store.gather(pages)
    moved: Unroll = move(unroll, torch.device("meta"))
    tensors = [
        *vars(moved.rows).values(), *moved.behaviour.values(), moved.actions,
        moved.policy_versions, moved.agent_state,
    ]  # fmt: skip
    assert all(tensor.is_meta for tensor in tensors)
    assert moved.rows.observations.shape == unroll.rows.observations.shape
