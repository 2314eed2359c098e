"""Groups that Gymnasium makes, and what cannot be made; `test_odd_environments.py` steps others."""

from __future__ import annotations

import itertools
import queue
import re
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from envservers.environments.factory import make_group
from envservers.environments.group import Group, GroupRow, InvalidEnvironment
from envservers.environments.gymnasium_groups import GymnasiumGroup
from envservers.environments.instances import Instances, SameInstance
from seed.wire.spaces import SpaceSpec
from tests.envservers.odd_envs import Plain

HERE, SEEDS = __name__, np.array([3, 4], np.int64)


def make_gymnasium_group(
    id_: str, vectorization: str, kwargs: dict[str, Any], num_envs: int = 2
) -> Group:
    table = {"kind": "gymnasium", "id": id_, "vectorization": vectorization, "kwargs": kwargs}
    return make_group(table, num_envs)


def make_vector(num_envs: int, mode: Any = AutoresetMode.NEXT_STEP) -> SyncVectorEnv:
    return SyncVectorEnv([Plain] * num_envs, autoreset_mode=mode)


def make_one_too_many(num_envs: int) -> SyncVectorEnv:
    return make_vector(num_envs + 1)


def make_no_vector(num_envs: int) -> Plain:
    return Plain()


def make_failing() -> Plain:
    raise RuntimeError("the\nlevel file is missing")


ONLY = Plain()


def make_one_for_all(num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: ONLY] * num_envs)


def make_alone() -> SyncVectorEnv:
    return make_vector(1)


def make_without_spaces(num_envs: int) -> VectorEnv[Any, Any, Any]:
    env: VectorEnv[Any, Any, Any] = VectorEnv()
    env.num_envs, env.metadata = num_envs, {"autoreset_mode": AutoresetMode.NEXT_STEP}
    return env


def play(vectorization: str) -> list[GroupRow]:
    group = make_gymnasium_group("CartPole-v1", vectorization, {})
    generator = np.random.default_rng(0)
    rows = [group.reset(SEEDS)]
    for _ in range(80):
        rows.append(group.step(generator.integers(0, group.action.n, group.num_envs)))
    group.close()
    return rows


def test_cartpole_follows_the_time_convention() -> None:
    sync, native, in_processes = map(play, ("sync", "native", "async"))
    for rows in (sync, native):
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
    for one, other in zip(sync, in_processes, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.terminated, other.terminated)


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


@pytest.mark.parametrize(
    ("id_", "kwargs", "reason"),
    [(f"{HERE}:make_vector", {"mode": AutoresetMode.SAME_STEP}, "reset on the next step"),
     (f"{HERE}:make_one_too_many", {}, "asked for 2 environments, got 3"),
     (f"{HERE}:make_one_for_all", {}, "type Plain is one and the same object"),
     (f"{HERE}:make_without_spaces", {}, "observation space None is not supported"),
     (f"{HERE}:make_alone", {}, "needs a parameter num_envs"),
     (f"{HERE}:make_no_vector", {}, "expected a gymnasium.vector.VectorEnv"),
     (f"{HERE}:make_failing", {}, "RuntimeError: the level file is missing"),
     (f"{HERE}:SEEDS", {}, "expected a function"),
     (f"{HERE}:make_alone", {"limits": 1}, "limits"),
     ("no_such_module:make", {}, "'no_such_module'; .* in the working folder, or"),
     ("queue:make", {}, rf"found, {re.escape(queue.__file__)}, has no attribute 'make'; if yours"),
     ("sys:make", {}, "found, in Python, has no attribute 'make'"),
     ("no_colon", {}, "no_colon"), (":make", {}, ":make"), (f"{HERE}:", {}, f"{HERE}:")],
)  # fmt: skip
def test_functions_that_do_not_fit_are_refused(
    id_: str, kwargs: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidEnvironment, match=reason):
        make_group({"kind": "function", "id": id_, "kwargs": kwargs}, 2)


def test_the_name_of_the_autoreset_mode_is_enough() -> None:
    kwargs = {"mode": AutoresetMode.NEXT_STEP.value}
    make_group({"kind": "function", "id": f"{HERE}:make_vector", "kwargs": kwargs}, 2).close()


def test_one_object_cannot_be_several_groups() -> None:
    env = make_vector(2)
    instances = Instances()
    group = GymnasiumGroup(env, 2, instances)
    with pytest.raises(SameInstance):
        GymnasiumGroup(env, 2, instances)
    group.close()
    GymnasiumGroup(env, 2, instances)


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
