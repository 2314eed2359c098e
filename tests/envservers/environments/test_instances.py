from __future__ import annotations

import gymnasium
import pytest
from gymnasium.wrappers import TimeLimit

from envservers.environments.group import InvalidEnvironment
from envservers.environments.instances import Instances, SameInstance


def test_an_object_can_be_one_environment_only() -> None:
    env, other = gymnasium.make("CartPole-v1"), gymnasium.make("CartPole-v1")
    instances = Instances()
    instances.take(env)
    instances.take(other)
    # In other wrappers, it is the same one.
    with pytest.raises(SameInstance, match="type CartPoleEnv is one and the same object") as error:
        instances.take(TimeLimit(env.unwrapped, 10))
    assert isinstance(error.value, InvalidEnvironment)
    instances.release(env)
    instances.take(env)


def test_of_several_none_is_taken_where_two_are_one() -> None:
    env, other = gymnasium.make("CartPole-v1"), gymnasium.make("CartPole-v1")
    instances = Instances()
    with pytest.raises(SameInstance):
        instances.take(other, env, env)
    instances.take(env, other)
