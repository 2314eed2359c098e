"""Batches through the network: who gets which action, and whose recurrent state goes where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import Config, InferenceConfig, LearnerConfig, NetworkConfig
from seed.contract.loading import load_algorithm
from seed.device.transfer import move, tensors_of
from seed.inference.batcher import GroupRows, InferenceBatch
from seed.inference.forward import ForwardPass
from seed.ops.reward_shaping import shape_rewards
from seed.run.description import Spaces
from seed.run.plan import make_agent, plan_store
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.wire import messages
from seed.wire.spaces import SpaceSpec
from tests.seed.forwarding import CPU, LAYOUT, SUMMING, Seeing, group, make_forward, run


def gather(store: UnrollStore, forward: ForwardPass, *batches: list[GroupRows]) -> Unroll:
    """The unrolls that these batches make whole."""
    complete = [page for batch in batches for page in forward.run(InferenceBatch.of(batch))[1]]
    return store.gather(complete)


def test_the_state_persists_per_environment_whatever_the_batch() -> None:
    forward, _ = make_forward()
    assert run(forward, group([4, 2], [40, 20]), group([0], [7])) == [40, 20, 7]
    assert run(forward, group([0], [1])) == [8]
    assert run(forward, group([0], [1]), group([2, 4], [1, 2])) == [9, 21, 42]


def test_the_state_is_zero_where_an_episode_starts() -> None:
    forward, _ = make_forward()
    run(forward, group([0, 1], [5, 6]))
    ending = group([0], [5], flags=messages.TERMINATED)
    # The ending row still belongs to its episode.
    assert run(forward, ending, group([1], [6])) == [10, 12]
    assert run(forward, group([0], [1], flags=messages.FIRST), group([1], [6])) == [1, 18]
    assert run(forward, group([0], [1])) == [2]


def test_the_state_is_zero_where_a_history_breaks() -> None:
    forward, store = make_forward()
    run(forward, group([0, 1, 2], [5, 6, 7]))
    store.drop(np.array([1]))
    assert run(forward, group([0], [5], run_id=2), group([1, 2], [6, 7])) == [5, 6, 14]


def test_rows_and_the_state_before_row_0_reach_the_store() -> None:
    forward, store = make_forward()
    batches = [[group([3], [t + 1]), group([1], [10 * (t + 1)])] for t in range(5)]
    unroll = gather(store, forward, *batches)
    # Pages come whole in the order of the batches: rows 0..2 of both, then rows 2..4.
    assert unroll.rows.observations[""].T.tolist() == [
        [1, 2, 3], [10, 20, 30], [3, 4, 5], [30, 40, 50],
    ]  # fmt: skip
    assert unroll.rows.rewards[1].tolist() == [1.0, 10.0, 2.0, 20.0]
    assert unroll.agent_state.flatten().tolist() == [0, 0, 3, 30]
    assert unroll.actions[:, 2].tolist() == [6, 10, 15]
    assert unroll.rows.previous_actions[:, 2].tolist() == [3, 6, 10]
    assert unroll.behaviour["before"][:, 2].tolist() == [3, 6, 10]


def test_the_stored_state_is_zero_where_row_0_starts_an_episode() -> None:
    forward, store = make_forward()
    flags = [messages.FIRST, messages.TRUNCATED, messages.FIRST, 0, 0]
    unroll = gather(store, forward, *[[group([0], [1], flags=flag)] for flag in flags])
    assert unroll.agent_state.flatten().tolist() == [0, 0]
    assert unroll.rows.first.T.tolist() == [[True, False, True], [True, False, False]]
    assert unroll.rows.truncated.T.tolist() == [[False, True, False], [False] * 3]
    assert not unroll.rows.terminated.any()


@pytest.mark.parametrize("flag", [0, messages.FIRST, messages.TERMINATED, messages.TRUNCATED, 3])
def test_flags_are_told_apart(flag: int) -> None:
    forward, store = make_forward()
    batches = [[group([0], [1], flags=f)] for f in (messages.FIRST, flag, 0)]
    rows = gather(store, forward, *batches).rows
    assert bool(rows.first[1, 0]) == (flag == messages.FIRST)
    assert bool(rows.terminated[1, 0]) == bool(flag & messages.TERMINATED)
    assert bool(rows.truncated[1, 0]) == bool(flag & messages.TRUNCATED)


def test_the_version_of_the_weights_is_recorded() -> None:
    forward, store = make_forward()
    slot, newer = WeightSlot(), nn.Linear(1, 1, bias=False)
    nn.init.constant_(newer.weight, 3)
    slot.publish(12, newer)
    weights = slot.take()
    assert weights is not None
    complete = [
        page
        for _ in range(2)
        for page in forward.run(InferenceBatch.of([group([0], [1])]))[1]
    ]
    forward.load_weights(weights)
    assert run(forward, group([1], [4])) == [12]
    complete += forward.run(InferenceBatch.of([group([0], [1])]))[1]
    unroll = store.gather(complete)
    assert unroll.policy_versions.flatten().tolist() == [0, 0, 12]
    assert unroll.actions.flatten().tolist() == [1, 2, 9]


def test_greedy_reaches_the_algorithm() -> None:
    forward, _ = make_forward(greedy=True)
    assert run(forward, group([0], [5])) == [-5]


def test_the_fleet_reaches_the_algorithm() -> None:
    seeing = Seeing()
    store = UnrollStore(replace(LAYOUT, evaluation_share=1 / 3), CPU)
    forward = ForwardPass(seeing.algorithm, None, nn.Linear(1, 1), store, 6)
    forward.set_connected(np.array([0, 1, 2, 4]))
    run(forward, group([4, 2], [1, 1]), group([1, 0], [1, 1]))
    assert seeing.fleet.positions.tolist() == [1.0, 0.0, 0.5, 0.0]
    assert seeing.fleet.positions.dtype == torch.float32
    assert seeing.fleet.evaluation.tolist() == [False, True, False, False]
    forward.set_connected(np.array([1, 2, 4]))
    run(forward, group([1, 4], [1, 1]))
    assert seeing.fleet.positions.tolist() == [0.0, 1.0]


def test_evaluation_environments_see_stacks_and_previous_actions() -> None:
    seeing = Seeing()
    layout = replace(LAYOUT, num_pages=6, max_envs=2, frame_stack=3, evaluation_share=0.5)
    store = UnrollStore(layout, CPU)
    forward = ForwardPass(seeing.algorithm, None, nn.Linear(1, 1), store, 2)
    history: list[int] = []
    for t in range(60):
        first = t % 11 == 0
        history = [0, 0] if first else history
        history.append(t + 1)
        # A page may be written again as soon as nobody needs it: they have much the same rows.
        batch = group([0, 1], [1000 + t, t + 1], flags=messages.FIRST if first else 0)
        _, complete = forward.run(InferenceBatch.of([batch]))
        assert seeing.rows.observations[""][0, 1].tolist() == history[-3:]
        assert seeing.rows.previous_actions[0, 1] == 10 * history[-2]
        assert bool(seeing.rows.first[0, 1]) == first
        assert (store.gather(complete).rows.observations[""][:, :, -1] >= 1000).all()
        store.release(complete)
        assert store.has_room(np.arange(2), np.ones(2, np.uint64))


# Copying from the fake device "meta" gives zeros here; torch itself refuses to mix the devices.
def test_acting_may_be_on_another_device_than_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def carry(value: Any, device: torch.device) -> Any:
        if isinstance(value, dict):
            return {name: carry(item, device) for name, item in value.items()}
        if isinstance(value, Tensor) and value.is_meta:
            return torch.zeros(value.shape, dtype=value.dtype, device=device)
        return move(value, device)

    monkeypatch.setattr("seed.inference.forward.move", carry)
    seeing, store = Seeing(), UnrollStore(LAYOUT, CPU)
    forward = ForwardPass(seeing.algorithm, None, nn.Linear(1, 1, device="meta"), store, 6)
    forward.set_connected(np.arange(2))
    for t in range(3):
        actions, complete = forward.run(InferenceBatch.of([group([1, 0], [t + 1, t + 5])]))
        assert actions.tolist() == [0, 0]
        shown = [*tensors_of(seeing.rows), seeing.fleet.positions]
        assert all(value.is_meta for value in shown)
    assert store.gather(complete).rows.observations[""].T.tolist() == [[1, 2, 3], [5, 6, 7]]


def test_on_one_device_nothing_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("seed.inference.forward.move")
    forward, _ = make_forward()
    assert run(forward, group([0], [5])) == [5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("acting", "storing"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_the_store_may_be_on_the_host_or_on_a_gpu(acting: str, storing: str) -> None:
    agent = nn.Linear(1, 1, bias=False, device=acting)
    nn.init.ones_(agent.weight)
    store = UnrollStore(LAYOUT, torch.device(storing), pinned=storing == "cpu")
    forward = ForwardPass(SUMMING, 1, agent, store, 6)
    unroll = gather(store, forward, *[[group([3, 1], [t + 1, 10])] for t in range(5)])
    assert unroll.rows.observations[""].device.type == storing
    assert unroll.rows.observations[""].T.tolist() == [
        [1, 2, 3], [10, 10, 10], [3, 4, 5], [10, 10, 10],
    ]  # fmt: skip
    assert unroll.actions.T.tolist() == [[1, 3, 6], [10, 20, 30], [6, 10, 15], [30, 40, 50]]
    assert unroll.behaviour["before"][:, 2].tolist() == [3, 6, 10]
    assert unroll.agent_state.flatten().tolist() == [0, 0, 3, 20]


# "cuda" and "cuda:0" are one device, however differently they are spelt.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_one_gpu_nothing_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("seed.inference.forward.move")
    store = UnrollStore(LAYOUT, torch.device("cuda"))
    agent = nn.Linear(1, 1, device="cuda:0")
    forward = ForwardPass(Seeing().algorithm, None, agent, store, 6)
    assert run(forward, group([0], [5])) == [50]


def random_group(rng: np.random.Generator, ended: dict[int, bool], envs: list[int]) -> GroupRows:
    """A row of each environment in a made-up game whose episodes end at random."""
    flags = []
    for env in envs:
        flag = messages.FIRST if ended[env] else int(rng.choice([0, 0, 0, 0, 1, 2]))
        ended[env] = flag in (messages.TERMINATED, messages.TRUNCATED)
        flags.append(flag)
    rewards = rng.normal(size=len(envs)) * [flag != messages.FIRST for flag in flags]
    observations = rng.normal(size=(len(envs), 2)).astype(np.float32)
    arrays = messages.StepArrays(
        np.ones(len(envs), np.uint64), observations, rewards.astype(np.float32),
        np.array(flags, np.uint8), np.empty(0, messages.EPISODE_DTYPE),
    )  # fmt: skip
    return GroupRows(np.array(envs), arrays)


@pytest.mark.parametrize("action", [SpaceSpec("int64", (), 3), SpaceSpec("float32", (2,))])
@pytest.mark.parametrize("network", [
    NetworkConfig(torso="mlp", hidden_sizes=(8,), lstm_size=4, frame_stack=3),
    NetworkConfig(torso="mlp", hidden_sizes=(8,), frame_stack=2),
    NetworkConfig(torso="mlp", hidden_sizes=(8,), lstm_size=4),
])  # fmt: skip
def test_learning_sees_what_acting_saw(network: NetworkConfig, action: SpaceSpec) -> None:
    vtrace: Any = load_algorithm("vtrace")
    config = Config(
        network=network,
        inference=InferenceConfig(max_envs=4, max_batch=4),
        learner=LearnerConfig(unroll_length=3, batch_size=2),
        algorithm=vtrace.Config(),
    )
    spaces = Spaces(SpaceSpec("float32", (2,)), action)
    agent: Any = make_agent(vtrace, config, spaces, CPU)
    # Larger than at the start of a run, where every row would have nearly the same policy.
    nn.init.normal_(agent.policy_head.weight)
    store = UnrollStore(plan_store(vtrace, config, spaces, agent, CPU), CPU)
    forward = ForwardPass(vtrace, config.algorithm, agent, store, 4)
    rng, ended = np.random.default_rng(3), dict.fromkeys(range(4), True)
    unrolls = 0
    for t in range(40):
        groups = [[2, 0]] if t % 3 == 0 else [[1, 3], [2, 0]]
        steps = [random_group(rng, ended, envs) for envs in groups]
        _, complete = forward.run(InferenceBatch.of(steps))
        if complete:
            unroll = store.gather(complete)
            settings = config.algorithm
            rewards = shape_rewards(
                unroll.rows.rewards, settings.reward_scale, settings.reward_clip
            )
            output = agent(unroll.rows, rewards, unroll.agent_state)
            torch.testing.assert_close(output.policy, unroll.behaviour["policy"])
            store.release(complete)
            store.wait_for_release(0)
            unrolls += len(complete)
    rows = np.array([40, 26, 40, 26])
    offsets = store.layout.first_offsets
    # The last row only begins a page, and pages that begin late are no unrolls.
    assert unrolls == ((rows - 1 + offsets) // 3 - (offsets > 0)).sum()
