"""What is built from a plan, and how a run goes on from a checkpoint and its replay."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from seed.algorithms import vtrace
from seed.config.schema import Config, ConfigError
from seed.inference.batcher import GroupRows, InferenceBatch
from seed.inference.loop import Inference
from seed.learner.checkpoint import Checkpoint, CheckpointError
from seed.learner.loop import Progress
from seed.learner.replay import Replay
from seed.learner.sources import QueueSource
from seed.networks.actor_critic import ActorCritic
from seed.process.threads import ThreadGroup
from seed.run import build as run_build
from seed.run import evaluate
from seed.run.build import ProgressCounter, Run, make_inference, make_store
from seed.run.lock import RunTaken, hold_run
from seed.run.plan import make_agent, plan_run
from seed.run.resume import find_checkpoint, restore
from seed.store.weights import WeightSlot
from seed.wire import messages
from tests.seed.central import Dealer
from tests.seed.configs import make_config
from tests.seed.conftest import Build

pytestmark = pytest.mark.usefixtures("describes_here")
R2D2: dict[str, Any] = {
    "local_envservers": 0,
    "network": {"lstm_size": 3},
    "inference": {"max_envs": 4, "evaluation_share": 0.25},
    "learner": {"unroll_length": 5, "batch_size": 2},
    "replay": {"capacity_rows": 60, "burn_in": 2, "min_rows": 10, "in_checkpoint": True},
    "algorithm": {"name": "r2d2", "dueling_size": 4},
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(run_dir=str(tmp_path / "run"))


@pytest.fixture
def r2d2(tmp_path: Path) -> Config:
    return make_config(run_dir=str(tmp_path / "run"), **R2D2)


def with_replay(config: Config, **settings: Any) -> Config:
    return replace(config, replay=replace(config.replay, **settings))


def replay_of(run: Run) -> Replay:
    return cast(Replay, run.learner._source)


def play(run: Run, rows: int = 16) -> None:
    """So many rows of every environment, stored as inference stores them."""
    column = run.store.layout.observations[""]
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
    play(run)
    assert replay_of(run).wait(0.0)
    run.learner._learn_once()
    run.learner._save()


def load(config: Config) -> Checkpoint:
    loaded = find_checkpoint(config)
    assert loaded is not None
    return loaded


def test_the_counter_goes_on_where_a_checkpoint_has_left_off(
    build: Build, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(config)
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    counter = ProgressCounter(Progress(5, 7, 60.0), run.inference)
    run.inference.env_steps = 20
    now_s[0] += 3.0
    assert counter.read() == Progress(25, 0, 63.0)
    run.learner._updates.learner_steps = 9
    run.counter = counter
    assert (run.progress(), run.env_frames()) == (Progress(25, 9, 63.0), 25)
    # The checkpoint has all three, of one moment.
    run.learner._progress = counter.read
    run.learner._save()

    def restore_slowly(*arguments: Any) -> None:
        now_s[0] += 50.0
        restore(*arguments)

    # What loading takes is no time of the run.
    monkeypatch.setattr(run_build, "restore", restore_slowly)
    again = build(config, load(config))
    assert again.progress() == Progress(25, 9, 63.0)
    # What is sampled is not what the first process has sampled, and weights are there to act.
    assert torch.initial_seed() == config.seed + 25
    weights = again.learner._slot.take()
    assert weights is not None
    assert weights.version == 9


def test_says_what_differs_from_the_run_that_it_goes_on_with(
    build: Build, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = build(config)
    assert first.learner._updates._server_of == first.inference.server_of
    first.learner._save()
    loaded = load(config)
    build(replace(config, seed=9), loaded)
    # The version is this one, of which nothing needs to be said.
    assert "written by version" not in caplog.text
    assert caplog.text.count("settings that differ: seed = 9 (it was 1)\n") == 1
    # As checkpoints were before they said it.
    for name in ("version", "config"):
        del loaded.state[name]
    build(replace(config, seed=9), loaded)
    assert caplog.text.count("going on from 0 frames") == 2
    assert caplog.text.count("settings that differ") == 1


def test_checkpoints_of_a_folder_that_is_gone_are_forgotten_and_of_anothers_not_written(
    build: Build, config: Config, tmp_path: Path
) -> None:
    run, run_dir = build(config), Path(config.run_dir)
    run.learner._save()
    for look in (run.hold_folder, run.learner._saver._hold_folder):
        assert run.learner._saver.newest is not None
        (run_dir / "lock").unlink()
        look()
        assert run.learner._saver.newest is None
        assert (run_dir / "config.toml").exists()
        run.learner._save()
    shutil.rmtree(run_dir / "checkpoints")
    # The main thread looks too, but not just before a checkpoint.
    with hold_run(tmp_path / "other"):
        (tmp_path / "other" / "lock").replace(run_dir / "lock")
        with pytest.raises(RunTaken):
            run.learner._save()
    assert not (run_dir / "checkpoints").exists()


# Instead of every tensor that does not fit.
@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"network": {"hidden_sizes": [5]}}, "network.hidden_sizes = [5] (it was [4])"),
        ({"network": {"lstm_size": 2}}, "network.lstm_size = 2 (it was 0)"),
        ({"optimizer": {"kind": "rmsprop_tf"}}, 'optimizer.kind = "rmsprop_tf" (it was "adam")'),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_settings_that_differ(
    build: Build, config: Config, changes: dict[str, Any], setting: str
) -> None:
    build(config).learner._save()
    changed = make_config(run_dir=config.run_dir, **changes)
    loaded = load(changed)
    with pytest.raises(CheckpointError) as refused:
        restore(build(changed).learner, loaded, changed)
    said = str(refused.value)
    assert said.startswith(f"{loaded.path}: the checkpoint")
    assert said.endswith(
        f"; settings that differ: {setting}; set them back, or choose another run_dir"
    )
    assert said.count("weight") <= 1


def test_batches_come_from_where_the_algorithm_says_drawn_by_seed_and_progress(
    build: Build, config: Config, r2d2: Config
) -> None:
    run = build(config)
    assert isinstance(run.learner._source, QueueSource)
    assert run.store.layout.replay_unrolls == 0
    assert run.learner._saver._save_replay is None

    def draw(run: Run) -> float:
        return replay_of(run)._priorities._rng.random()

    run = build(r2d2)
    assert isinstance(run.learner._source, Replay)
    assert run.store.layout.replay_unrolls == 12
    drawn = draw(run)
    assert draw(build(r2d2)) == drawn
    assert draw(build(replace(r2d2, seed=r2d2.seed + 1))) != drawn
    run.inference.env_steps = 1
    learn(run)
    assert draw(build(r2d2, load(r2d2))) != drawn


@pytest.mark.parametrize("form", ["known", "unknown", "one for all"])
def test_initial_priorities_are_the_algorithms_or_all_alike(
    build: Build, r2d2: Config, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    asked: list[Any] = []
    built: list[Run] = []

    def note(unroll: Any, config: Any) -> Any:
        asked.append(config)
        rewards = unroll.rows.rewards
        # Before anything starts there are only zeros, which fit.
        fits = form != "one for all" or not built
        return rewards.sum(dim=0) + 2.5 if fits else rewards.sum()

    monkeypatch.setattr("seed.algorithms.r2d2.initial_priorities", note)
    if form == "unknown":
        monkeypatch.delattr("seed.algorithms.r2d2.initial_priorities")
    run = build(r2d2)
    built.append(run)
    play(run)
    if form == "one for all":
        with pytest.raises(ConfigError, match=r"'r2d2': initial_priorities gives a tensor of sha"):
            replay_of(run).wait(0.0)
        return
    assert replay_of(run).wait(0.0)
    priorities = replay_of(run)._priorities.priorities().tolist()
    assert set(priorities) == {1.0 if form == "unknown" else 2.5}
    assert set(asked) == (set() if form == "unknown" else {run.config.algorithm})


@pytest.mark.parametrize(
    ("in_checkpoint", "change"),
    [(True, ""), (False, ""), (True, "left there"), (True, "torn"), (True, "of another form")],
)
def test_a_run_goes_on_with_its_replay_where_it_can(
    build: Build, r2d2: Config, caplog: pytest.LogCaptureFixture, in_checkpoint: bool, change: str
) -> None:
    caplog.set_level(logging.INFO)
    run = build(with_replay(r2d2, in_checkpoint=in_checkpoint))
    learn(run)
    rows = list(run.learner._saver.folder.glob("*/replay/rewards.npy"))
    assert len(rows) == in_checkpoint
    if change == "torn":
        rows[0].write_bytes(rows[0].read_bytes()[:-1])
    # What is in a checkpoint may be left there.
    if change in ("left there", "of another form"):
        left = change == "left there"
        r2d2 = with_replay(r2d2, in_checkpoint=not left, burn_in=2 if left else 1)
    other = build(r2d2, load(r2d2))
    restored = in_checkpoint and not change
    assert other.learner.learner_steps == 1
    assert len(replay_of(other)) == (len(replay_of(run)) if restored else 0)
    assert ("replay holds" in caplog.text) == restored
    if restored:
        assert len(replay_of(run)) > 2
        assert replay_of(other).scalars() == replay_of(run).scalars()
        priorities = [replay_of(each)._priorities.priorities().tolist() for each in (run, other)]
        assert priorities[0] == priorities[1]
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == (change in ("torn", "of another form"))
    assert all(line.startswith("replay starts empty: ") for line in said)
    learn(other)
    assert other.learner.learner_steps == 2


class Pair(nn.Module):
    """What acts, before something that only learns."""

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.learner, self.actor = nn.Linear(3, 3), actor


def test_only_the_acting_part_is_published_and_acts(
    config: Config, monkeypatch: pytest.MonkeyPatch, build: Build
) -> None:
    make, loss = vtrace.make_agent, vtrace.loss
    monkeypatch.setattr(vtrace, "make_agent", lambda *given: Pair(make(*given)))
    monkeypatch.setattr(vtrace, "acting_part", lambda agent: agent.actor, raising=False)
    monkeypatch.setattr(vtrace, "loss", lambda agent, *rest: loss(agent.actor, *rest))
    run = build(config)
    acting: Any = run.inference._forward._agent
    learning: Any = run.learner._agent
    assert isinstance(acting, ActorCritic)
    with torch.no_grad():
        learning.actor.policy_head.bias.fill_(7.0)
    run.learner.publish()
    weights = run.learner._slot.take()
    assert weights is not None
    run.inference._forward.load_weights(weights)
    assert (acting.policy_head.bias == 7.0).all()
    # A checkpoint has all, and an evaluation plays the part.
    run.learner._save()
    loaded = load(config)
    assert {name.split(".")[1] for name in loaded.tensors if name.startswith("agent.")} == {
        "learner", "actor",
    }  # fmt: skip
    evaluated = evaluate._build(evaluate._plan(evaluate._adapt(config, 1), loaded), greedy=True)
    acting = evaluated._forward._agent
    assert isinstance(acting, ActorCritic)
    taken = evaluated._slot.take()
    assert taken is not None
    evaluated._forward.load_weights(taken)
    assert (acting.policy_head.bias == 7.0).all()
    threads = ThreadGroup()
    threads.start("inference", lambda: evaluated.run(threads.stop, lambda: "the end"))
    threads.join()


def serve(config: Config, seed: tuple[int, int] = (1, 0), favourite: int = 0) -> Inference:
    """Inference alone, whose agent has a favourite action."""
    plan = replace(plan_run(config, None), seed=seed)
    agent: Any = make_agent(plan.algorithm, config, plan.spaces, plan.acting_device)
    with torch.no_grad():
        agent.policy_head.bias[favourite] = 100.0
    store = make_store(plan.layout, plan.store_device, plan.learning_device)
    inference = make_inference(plan, store, agent, WeightSlot(), greedy=True)
    assert not agent.training
    return inference


def connect(inference: Inference) -> tuple[list[int], list[int]]:
    """The seeds that two environments get and their first actions, from zeros."""
    threads = ThreadGroup()
    threads.start("inference", lambda: inference.run(threads.stop, lambda: "the end"))
    dealer = Dealer(inference.endpoint)
    try:
        seeds = dealer.hello(2).seeds.tolist()
        dealer.step_arrays(0, np.zeros((2, 10, 5), np.float32))
        return seeds, dealer.actions(0)
    finally:
        dealer.socket.close()
        threads.join()


def test_the_given_agent_acts_and_environments_get_seeds_of_both_parts(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed.inference.loop._FAREWELL_MS", 5)
    cases = [((1, 0), 0), ((1, 0), 1), ((1, 7), 2), ((2, 0), 0)]
    answers = [connect(serve(config, seed, favourite)) for seed, favourite in cases]
    assert [actions for _, actions in answers] == [[favourite] * 2 for _, favourite in cases]
    first, again, *others = [seeds for seeds, _ in answers]
    assert first == again
    assert len({*first, *others[0], *others[1]}) == 6


def test_only_acting_copies_have_rounded_weights(build: Build) -> None:
    run = build(make_config(network={"precision": "bfloat16"}))
    agents = (run.learner._agent, run.inference._forward._agent)
    dtypes = [{parameter.dtype for parameter in agent.parameters()} for agent in agents]
    assert dtypes == [{torch.float32}, {torch.float32, torch.bfloat16}]


@pytest.mark.parametrize(
    ("local_envservers", "keys", "address"),
    [("auto", {}, "auto"), (2, {}, "auto"), (0, {}, "tcp://127.0.0.1:5555"),
     (2, {"secret_key": "a.key", "allowed_keys": "keys"}, "tcp://127.0.0.1:5555")],
)  # fmt: skip
def test_only_local_servers_are_told_any_port(
    local_envservers: Any, keys: dict[str, str], address: str
) -> None:
    config = make_config(
        local_envservers=local_envservers, inference={"address": "auto", **keys}
    )
    assert run_build._with_known_address(config).address == address
