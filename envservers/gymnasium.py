"""Groups of Gymnasium environments: by id, or from any function that makes them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from envservers.groups import Array, EpisodeTracker, GroupRow, InvalidEnvironment, UnfitRow
from envservers.spaces import action_codec, observation_codec

Env = gymnasium.Env[Any, Any]


def gymnasium_maker(id_: str, kwargs: Mapping[str, Any]) -> Callable[[], Env]:
    """What makes one registered Gymnasium environment; it raises InvalidEnvironment.

    Args:
        id_: Gymnasium id ("CartPole-v1", "ALE/Pong-v5", "module:Name-v0").
        kwargs: Keyword arguments of the environment.
    """
    _register(id_)
    return lambda: _made(id_, lambda: gymnasium.make(id_, **kwargs))


def make_gymnasium_vector(
    id_: str, vectorization: str, kwargs: Mapping[str, Any], num_envs: int
) -> GymnasiumGroup:
    """Makes a group of a registered Gymnasium environment that is one object.

    Args:
        id_: Gymnasium id ("CartPole-v1", "ALE/Pong-v5", "module:Name-v0").
        vectorization: "async" (a process each), or "native" (the vector class that the environment
            was registered with).
        kwargs: Keyword arguments of the environment.
        num_envs: Number of environments.

    Raises:
        InvalidEnvironment: where Gymnasium cannot make it, or it does not fit a group.
    """
    vector_kwargs: dict[str, Any] = {}
    mode = "vector_entry_point"
    if vectorization == "async":
        mode = "async"
        # The group copies what it gets, so the vector class need not do it as well. A plain fork
        # of a process with ZeroMQ's threads could deadlock.
        vector_kwargs = {
            "autoreset_mode": AutoresetMode.NEXT_STEP, "copy": False, "context": "forkserver"
        }  # fmt: skip
    _register(id_)
    if vectorization == "native" and not _has_native(id_):
        raise InvalidEnvironment(
            f'environment.vectorization = "native": {id_!r} was registered without a vector class; '
            'expected "sync", or "async"'
        )
    env = _made(
        id_,
        lambda: gymnasium.make_vec(id_, num_envs, mode, vector_kwargs=vector_kwargs, **kwargs),
    )
    return _wrap(env, num_envs, id_)


def _register(id_: str) -> None:
    if id_.startswith("ALE/"):
        import ale_py

        gymnasium.register_envs(ale_py)


def _has_native(id_: str) -> bool:
    """Whether it may have a vector class: where it cannot be found, making it says more."""
    try:
        return gymnasium.spec(id_).vector_entry_point is not None
    except (gymnasium.error.Error, ModuleNotFoundError):
        return True


class FunctionMaker:
    """A Python function "package.module:function" that makes environments.

    One with a parameter `num_envs` returns a VectorEnv that resets itself on the next step; any
    other returns a single Env.

    Attributes:
        makes_vectors: Whether it has a parameter `num_envs`.

    Raises:
        InvalidEnvironment: where it cannot be imported.
    """

    def __init__(self, id_: str, kwargs: Mapping[str, Any]) -> None:
        """Imports the function, which is to be called with `kwargs`."""
        self._id, self._kwargs = id_, kwargs
        self._function = _import_function(id_)
        parameters = _made(id_, lambda: inspect.signature(self._function)).parameters
        self.makes_vectors = "num_envs" in parameters

    def make_single(self) -> Env:
        """Calls the function; raises InvalidEnvironment where it raises or returns no Env."""
        env = _made(self._id, lambda: self._function(**self._kwargs))
        if not hasattr(env, "observation_space") or not hasattr(env, "action_space"):
            raise InvalidEnvironment(
                f"environment {self._id!r}: expected a gymnasium.Env, got {type(env).__name__}"
            )
        return env  # type: ignore[no-any-return]

    def make_vector(self, num_envs: int) -> GymnasiumGroup:
        """Calls the function; raises InvalidEnvironment where it raises or returns no VectorEnv."""
        env = _made(self._id, lambda: self._function(num_envs=num_envs, **self._kwargs))
        return _wrap(env, num_envs, self._id)


class GymnasiumGroup:
    """A Gymnasium vector environment as a group; see `envservers.groups.Group`.

    Raises:
        InvalidEnvironment: for spaces that the wire cannot carry.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], num_envs: int) -> None:
        """Of `num_envs` environments, which `reset` starts.

        Raises:
            InvalidEnvironment: for spaces that the wire cannot carry.
        """
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
            raise UnfitRow(
                "not finite", f"the environment returned a reward that is not finite: {rewards}"
            )
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
    # Importing runs a user's code.
    module = _made(id_, lambda: _import_module(module_name))
    function = _made(id_, lambda: getattr(module, function_name, None))
    if function is None:
        raise InvalidEnvironment(
            f"environment {id_!r}: the module found, {getattr(module, '__file__', 'in Python')}, "
            f"has no attribute {function_name!r}; if yours is another file, give it another name"
        )
    if not callable(function):
        raise InvalidEnvironment(f"environment {id_!r}: expected a function, got {function!r}")
    return function  # type: ignore[no-any-return]


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f"{error}; expected one that is installed, or a file in the working folder, or in that "
            "of the learner's configuration file"
        ) from None


def _made(id_: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; whatever it raises becomes InvalidEnvironment."""
    # What third-party code raises has no common class.
    try:
        return make()
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        unknown = (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound)
        if isinstance(error, unknown) and ":" not in id_ and "Did you mean" not in text:
            text += f' An id that a package has to register is given as "package:{id_}".'
        raise InvalidEnvironment(
            f"environment {id_!r} cannot be made: {type(error).__name__}: {text}"
        ) from error
