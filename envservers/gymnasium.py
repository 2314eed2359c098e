"""Groups of Gymnasium environments: by id, or from any function that makes them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from envservers.groups import Array, EpisodeTracker, GroupRow, InvalidEnvironment
from envservers.spaces import action_codec, observation_codec


def make_gymnasium_group(
    id_: str, vectorization: str, kwargs: Mapping[str, Any], num_envs: int
) -> GymnasiumGroup:
    """Makes a group of a registered Gymnasium environment.

    Args:
        id_: Gymnasium id ("CartPole-v1", "ALE/Pong-v5", "module:Name-v0").
        vectorization: "sync" (in turn), "async" (a process each), or "native" (the vector class
            that the environment was registered with).
        kwargs: Keyword arguments of the environment.
        num_envs: Number of environments.

    Raises:
        InvalidEnvironment: where Gymnasium cannot make it, or it does not fit a group.
    """
    # The group copies what it gets, so the vector class need not do it as well.
    vector_kwargs: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "copy": False}
    mode = vectorization
    if vectorization == "native":
        vector_kwargs, mode = {}, "vector_entry_point"
    elif vectorization == "async":
        # A plain fork of a process with ZeroMQ's threads could deadlock.
        vector_kwargs["context"] = "forkserver"
    if id_.startswith("ALE/"):
        import ale_py

        gymnasium.register_envs(ale_py)
    # What a third-party environment raises has no common class.
    try:
        env = gymnasium.make_vec(id_, num_envs, mode, vector_kwargs=vector_kwargs, **kwargs)
    except Exception as error:
        raise _cannot_make(id_, error) from error
    return _wrap(env, num_envs, id_)


def make_function_group(id_: str, kwargs: Mapping[str, Any], num_envs: int) -> GymnasiumGroup:
    """Makes a group from a Python function, "package.module:function".

    A function with a parameter `num_envs` is called once and returns a VectorEnv that resets
    itself on the next step; any other is called once per environment and returns an Env.

    Raises:
        InvalidEnvironment: where it cannot be imported, raises, or returns something else.
    """
    function = _import_function(id_)
    # What a user's function raises has no common class.
    try:
        if "num_envs" in inspect.signature(function).parameters:
            env = function(num_envs=num_envs, **kwargs)
        else:
            makers = [lambda: function(**kwargs)] * num_envs
            env = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
    except Exception as error:
        raise _cannot_make(id_, error) from error
    return _wrap(env, num_envs, id_)


class GymnasiumGroup:
    """A Gymnasium vector environment as a group; see `envservers.groups.Group`.

    Raises:
        InvalidEnvironment: for spaces that the wire cannot carry.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], num_envs: int) -> None:
        self._env = env
        self.num_envs = num_envs
        self.observation, self._encode = observation_codec(env.single_observation_space)
        self.action, self._decode = action_codec(env.single_action_space)
        self._episodes = EpisodeTracker(num_envs)
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(self, seeds: Array) -> GroupRow:
        """Starts new episodes.

        A vector class of which `reset` takes a single seed, as Gymnasium's own native ones do, gets
        the first one.
        """
        seed_list: Any = [int(seed) for seed in seeds]
        try:
            observations, _ = self._env.reset(seed=seed_list)
        except (TypeError, gymnasium.error.Error):
            observations, _ = self._env.reset(seed=seed_list[0])
        self._episodes.reset()
        no, zero = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.float32)
        self._ended = no
        episodes = self._episodes.add(zero, no)
        return GroupRow(self._observed(observations), zero, no, no, ~no, episodes)

    def step(self, actions: Array) -> GroupRow:
        """Steps all environments; those that had ended start their next episode.

        Raises:
            ValueError: where the environment returns a reward that is not finite, or observations
                of another shape than its space.
        """
        observations, rewards, terminated, truncated, _ = self._env.step(self._decode(actions))
        first = self._ended
        sent_rewards = np.where(first, 0, rewards).astype(np.float32)
        if not np.isfinite(sent_rewards).all():
            raise ValueError(f"the environment returned a reward that is not finite: {rewards}")
        ended = np.logical_or(terminated, truncated)
        self._ended = ended
        return GroupRow(
            self._observed(observations),
            sent_rewards,
            np.array(terminated, np.bool_),
            np.array(truncated, np.bool_),
            first,
            self._episodes.add(rewards, ended),
        )

    def close(self) -> None:
        """Closes the environments and their processes."""
        self._env.close()

    def _observed(self, observations: Array) -> Array:
        encoded = self._encode(observations)
        expected_shape = (self.num_envs, *self.observation.shape)
        if encoded.shape != expected_shape:
            raise ValueError(
                f"the environment returned observations of shape {encoded.shape}, "
                f"expected {expected_shape}"
            )
        return encoded


def _wrap(env: object, num_envs: int, id_: str) -> GymnasiumGroup:
    if not isinstance(env, VectorEnv):
        raise InvalidEnvironment(
            f"environment {id_!r}: expected a gymnasium.vector.VectorEnv of a function with a "
            f"parameter num_envs, got {type(env).__name__}"
        )
    mode = env.metadata.get("autoreset_mode")
    try:
        if mode != AutoresetMode.NEXT_STEP:
            raise InvalidEnvironment(
                f"environment {id_!r}: its vector class must reset on the next step "
                f'(metadata["autoreset_mode"] = AutoresetMode.NEXT_STEP), got {mode}'
            )
        if env.num_envs != num_envs:
            raise InvalidEnvironment(
                f"environment {id_!r}: asked for {num_envs} environments, got {env.num_envs}"
            )
        return GymnasiumGroup(env, num_envs)
    except InvalidEnvironment:
        env.close()
        raise


def _import_function(id_: str) -> Callable[..., Any]:
    module_name, colon, function_name = id_.partition(":")
    if not (module_name and colon and function_name):
        raise InvalidEnvironment(f'environment.id: expected "package.module:function", got {id_!r}')
    # Importing runs a user's code, which may raise anything.
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:
        raise _cannot_make(id_, error) from error
    if not callable(function):
        raise InvalidEnvironment(f"environment {id_!r}: expected a function, got {function!r}")
    return function  # type: ignore[no-any-return]


def _cannot_make(id_: str, error: Exception) -> InvalidEnvironment:
    text = " ".join(str(error).split())
    return InvalidEnvironment(f"environment {id_!r} cannot be made: {type(error).__name__}: {text}")
