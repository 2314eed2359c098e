from __future__ import annotations

import itertools
import queue
import re
import sys
import types
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from envservers.environments.factory import make_group
from envservers.environments.group import Group, InvalidEnvironment, InvalidRow
from envservers.environments.gymnasium_groups import GymnasiumGroup
from envservers.environments.instances import Instances, SameInstance
from seed.wire.spaces import SpaceSpec


def make_gymnasium_group(
    id_: str, vectorization: str, kwargs: dict[str, Any], num_envs: int
) -> Group:
    table = {"kind": "gymnasium", "id": id_, "vectorization": vectorization, "kwargs": kwargs}
    return make_group(table, num_envs)


def make_function_group(id_: str, kwargs: dict[str, Any], num_envs: int) -> Group:
    return make_group({"kind": "function", "id": id_, "kwargs": kwargs}, num_envs)


SEEDS = np.array([3, 4], np.int64)
HERE = "environment_functions"


class Counter(gymnasium.Env[Any, Any]):
    """Observes (seed, steps); ends after `limit` steps; rewards with the action."""

    def __init__(self, limit: int = 3) -> None:
        self.observation_space = Box(0, 2**31, (2,), np.float64)
        self.action_space = Discrete(10)
        self.limit, self.steps, self.seed = limit, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seed = self.seed if seed is None else seed
        self.steps = 0
        return np.array([self.seed, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation = np.array([self.seed, float(self.steps)])
        return observation, float(action), False, self.steps == self.limit, {}


class Late(Counter):
    """Stays at its end."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *_ = super().step(action)
        return observation, reward, False, self.steps >= self.limit, {}


def make_vector(num_envs: int, mode: Any = AutoresetMode.NEXT_STEP) -> SyncVectorEnv:
    return SyncVectorEnv([Counter] * num_envs, autoreset_mode=mode)


def make_one_too_many(num_envs: int) -> SyncVectorEnv:
    return make_vector(num_envs + 1)


def make_no_vector(num_envs: int) -> Counter:
    return Counter()


def make_failing() -> Counter:
    raise RuntimeError("the\nlevel file is missing")


class Generous(SyncVectorEnv):
    def step(self, actions: Any) -> Any:
        observations, rewards, *rest = super().step(actions)
        return (observations, rewards + 1, *rest)


def make_generous(num_envs: int) -> SyncVectorEnv:
    return Generous([Counter] * num_envs)


ONLY = Counter()


def make_one_for_all(num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: ONLY] * num_envs)


def make_alone() -> SyncVectorEnv:
    return make_vector(1)


class NoReset(SyncVectorEnv):
    """Says that it resets on the next step, and does not."""

    def step(self, actions: Any) -> Any:
        self._autoreset_envs[:] = False
        return super().step(actions)


class ResetTooEarly(SyncVectorEnv):
    """Says that it resets on the next step, and does so at once."""

    def __init__(self, makers: Any) -> None:
        super().__init__(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}


def make_no_reset(num_envs: int) -> SyncVectorEnv:
    return NoReset([Late] * num_envs)


def make_reset_too_early(num_envs: int) -> SyncVectorEnv:
    return ResetTooEarly([Counter] * num_envs)


def make_without_spaces(num_envs: int) -> VectorEnv[Any, Any, Any]:
    env: VectorEnv[Any, Any, Any] = VectorEnv()
    env.num_envs, env.metadata = num_envs, {"autoreset_mode": AutoresetMode.NEXT_STEP}
    return env


@pytest.fixture(autouse=True)
def importable_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(HERE)
    vars(module).update(globals())
    monkeypatch.setitem(sys.modules, HERE, module)


def play(group: Group, num_steps: int) -> list[Any]:
    generator = np.random.default_rng(0)
    rows = [group.reset(SEEDS)]
    for _ in range(num_steps):
        rows.append(group.step(generator.integers(0, group.action.n, group.num_envs)))
    group.close()
    return rows


@pytest.mark.parametrize("vectorization", ["sync", "native"])
def test_cartpole_follows_the_time_convention(vectorization: str) -> None:
    rows = play(make_gymnasium_group("CartPole-v1", vectorization, {}, 2), 80)
    assert rows[0].observations.shape == (2, 4)
    assert rows[0].observations.dtype == np.float32
    assert rows[0].first.all()
    lengths = np.zeros(2, int)
    num_episodes = 0
    for before, row in itertools.pairwise(rows):
        np.testing.assert_array_equal(row.first, before.terminated | before.truncated)
        np.testing.assert_array_equal(row.rewards, np.where(row.first, 0, 1))
        assert (np.abs(row.observations[row.first]) <= 0.05).all()
        lengths = np.where(row.first, 0, lengths + 1)
        for index, length_steps, episode_return in row.episodes.tolist():
            assert row.terminated[index]
            assert length_steps == lengths[index] == episode_return
            num_episodes += 1
    assert num_episodes >= 4


def test_async_runs_the_same_episodes_as_sync() -> None:
    sync = play(make_gymnasium_group("CartPole-v1", "sync", {}, 2), 30)
    in_processes = play(make_gymnasium_group("CartPole-v1", "async", {}, 2), 30)
    for one, other in zip(sync, in_processes, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.terminated, other.terminated)


def test_pendulum_gets_scaled_actions() -> None:
    group = make_gymnasium_group("Pendulum-v1", "sync", {}, 1)
    assert group.action == SpaceSpec("float32", (1,))
    group.reset(SEEDS[:1])
    bare = gymnasium.make("Pendulum-v1")
    bare.reset(seed=3)
    for wire, torque in ((0.5, 1.0), (-1.0, -2.0), (7.0, 2.0)):
        row = group.step(np.array([[wire]], np.float32))
        observation, reward, *_ = bare.step(np.array([torque], np.float32))
        np.testing.assert_array_equal(row.observations[0], observation)
        assert row.rewards[0] == np.float32(reward)
    group.close()


def test_frozen_lake_has_discrete_observations() -> None:
    group = make_gymnasium_group("FrozenLake-v1", "sync", {"is_slippery": False}, 2)
    assert group.observation == SpaceSpec("int64", (), 16)
    assert group.reset(SEEDS).observations.tolist() == [0, 0]
    # 1 is down and 2 is right on a board of 4 columns.
    row = group.step(np.array([1, 2]))
    assert row.observations.tolist() == [4, 1]
    assert row.observations.dtype == np.int64
    group.close()


def test_ale_ids_need_no_import_by_the_user() -> None:
    group = make_gymnasium_group("ALE/Pong-v5", "sync", {"obs_type": "ram"}, 1)
    assert group.observation == SpaceSpec("uint8", (128,))
    group.close()


@pytest.mark.parametrize(
    ("id_", "vectorization", "kwargs", "reason"),
    [("CartPol-v1", "sync", {}, r"Did you mean: `CartPole`\?$"),
     ("Nonesuch-v1", "sync", {}, r'Nonesuch.* is given as "package:Nonesuch-v1"\.$'),
     ("nonesuch/Task-v1", "async", {}, 'is given as "package:nonesuch/Task-v1"'),
     ("json:Nonesuch-v1", "sync", {}, r"Environment `Nonesuch` doesn't exist\.$"),
     ("Nonesuch-v1", "native", {}, "Environment `Nonesuch` doesn't exist"),
     ("CartPole-v1", "sync", {"gravity": 1}, "gravity"),
     ("Pendulum-v1", "native", {}, "registered without a vector class; expected \"sync\""),
     ("Blackjack-v1", "sync", {}, "Tuple.* is not supported")],
)  # fmt: skip
def test_what_gymnasium_cannot_make_is_refused_in_a_line(
    id_: str, vectorization: str, kwargs: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidEnvironment, match=reason) as refusal:
        make_gymnasium_group(id_, vectorization, kwargs, 1)
    assert "\n" not in str(refusal.value)


def test_a_function_may_return_one_environment() -> None:
    group = make_function_group(f"{HERE}:Counter", {"limit": 2}, 2)
    row = group.reset(SEEDS)
    assert row.observations.tolist() == [[3, 0], [4, 0]]
    row = group.step(np.array([5, 6]))
    assert row.rewards.tolist() == [5, 6]
    assert not row.truncated.any()
    row = group.step(np.array([1, 1]))
    assert row.truncated.all()
    assert not row.terminated.any()
    assert row.observations.tolist() == [[3, 2], [4, 2]]
    assert row.episodes.tolist() == [(0, 2, 6.0), (1, 2, 7.0)]
    row = group.step(np.array([9, 9]))
    assert row.first.all()
    assert row.rewards.tolist() == [0, 0]
    assert row.observations.tolist() == [[3, 0], [4, 0]]
    group.close()


@pytest.mark.parametrize(
    ("id_", "kwargs", "reason"),
    [(f"{HERE}:make_vector", {"mode": AutoresetMode.SAME_STEP}, "reset on the next step"),
     (f"{HERE}:make_one_too_many", {}, "asked for 2 environments, got 3"),
     (f"{HERE}:make_one_for_all", {}, "type Counter is one and the same object"),
     (f"{HERE}:make_without_spaces", {}, "observation space None is not supported"),
     (f"{HERE}:make_alone", {}, "needs a parameter num_envs"),
     (f"{HERE}:make_no_vector", {}, "expected a gymnasium.vector.VectorEnv"),
     (f"{HERE}:make_failing", {}, "RuntimeError: the level file is missing"),
     (f"{HERE}:make_nothing", {}, "make_nothing"),
     (f"{HERE}:SEEDS", {}, "expected a function"),
     (f"{HERE}:Counter", {"limits": 1}, "limits"),
     ("no_such_module:make", {}, "'no_such_module'; .* in the working folder, or"),
     ("queue:make", {}, rf"found, {re.escape(queue.__file__)}, has no attribute 'make'; if yours"),
     ("sys:make", {}, "found, in Python, has no attribute 'make'"),
     ("no_colon", {}, "no_colon"), (":make", {}, ":make"), (f"{HERE}:", {}, f"{HERE}:")],
)  # fmt: skip
def test_functions_that_do_not_fit_are_refused(
    id_: str, kwargs: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidEnvironment, match=reason):
        make_function_group(id_, kwargs, 2)


def test_the_first_row_has_no_reward_whatever_the_environment_says() -> None:
    group = make_function_group(f"{HERE}:make_generous", {}, 1)
    group.reset(SEEDS[:1])
    rows = [group.step(np.array([2])) for _ in range(4)]
    assert [float(row.rewards[0]) for row in rows] == [3, 3, 3, 0]
    assert rows[2].episodes.tolist() == [(0, 3, 9.0)]
    group.close()


def test_one_object_cannot_be_several_groups() -> None:
    env = make_vector(2)
    instances = Instances()
    group = GymnasiumGroup(env, 2, instances)
    with pytest.raises(SameInstance):
        GymnasiumGroup(env, 2, instances)
    group.close()
    GymnasiumGroup(env, 2, instances)


@pytest.mark.parametrize(
    ("name", "steps", "reason"),
    [("make_no_reset", 4, "an episode ended again in the step after its end"),
     ("make_reset_too_early", 3, "hold 'final_obs': the vector class resets in that step")],
)  # fmt: skip
def test_vector_classes_that_reset_at_another_time_are_found_out(
    name: str, steps: int, reason: str
) -> None:
    group = make_function_group(f"{HERE}:{name}", {}, 1)
    group.reset(SEEDS[:1])
    for _ in range(steps - 1):
        group.step(np.array([0]))
    with pytest.raises(InvalidRow, match=reason):
        group.step(np.array([0]))
    group.close()


def test_the_name_of_the_autoreset_mode_is_enough() -> None:
    kwargs = {"mode": AutoresetMode.NEXT_STEP.value}
    make_function_group(f"{HERE}:make_vector", kwargs, 2).close()


def test_gymnasiums_own_processes_are_ended_in_mid_step() -> None:
    """Those of a class that a user's function has made."""
    env = AsyncVectorEnv([partial(gymnasium.make, "CartPole-v1")] * 2, context="forkserver")
    group = GymnasiumGroup(env, 2)
    group.reset(SEEDS)
    env.processes[1].kill()
    env.processes[1].join()
    with pytest.raises(RuntimeError, match="process of environment 1 ended with exit code -9"):
        group.step(np.zeros(2, np.int64))
    group.close()
    assert all(process.exitcode is not None for process in env.processes)
    assert env.closed
