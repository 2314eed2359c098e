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

from envservers.environments.closing import close_failed
from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS
from envservers.environments.group import (
    Array,
    EpisodeTracker,
    GroupRow,
    InvalidEnvironment,
    InvalidRow,
)
from envservers.environments.instances import Instances, SameInstance
from envservers.environments.returned import fitted, flags, reset_observation, step_parts
from envservers.environments.space_conversion import action_codec, observation_codec
from envservers.environments.workers import (
    WorkerError,
    Workers,
    end_workers,
    how_workers_ended,
    workers_of,
)

Env = gymnasium.Env[Any, Any]


def gymnasium_maker(id_: str, kwargs: Mapping[str, Any]) -> Callable[[], Env]:
    """What makes one registered Gymnasium environment; it raises InvalidEnvironment.

    Args:
        id_: Gymnasium id ("CartPole-v1", "ALE/Pong-v5", "module:Name-v0").
        kwargs: Keyword arguments of the environment.
    """

    def make() -> Env:
        # Here, as it may be called in a process of its own.
        _register(id_)
        env: Env = _made(id_, lambda: gymnasium.make(id_, **kwargs))
        return env

    return make


def make_in_processes(
    id_: str, make: Callable[[], Env], num_envs: int, instances: Instances
) -> GymnasiumGroup:
    """Makes a group of which each environment has a process of its own.

    Args:
        id_: What the environment is called in errors.
        make: Makes one environment.
        num_envs: Number of environments.
        instances: Of the environment server.

    Raises:
        InvalidEnvironment: where they cannot be made, or do not fit a group.
    """
    return _wrap(_made(id_, lambda: Workers(make, num_envs)), num_envs, id_, instances)


def make_native_vector(
    id_: str, kwargs: Mapping[str, Any], num_envs: int, instances: Instances
) -> GymnasiumGroup:
    """Makes a group of the vector class that a Gymnasium environment was registered with.

    Args:
        id_: Gymnasium id ("CartPole-v1", "module:Name-v0").
        kwargs: Keyword arguments of the environment.
        num_envs: Number of environments.
        instances: Of the environment server.

    Raises:
        InvalidEnvironment: where Gymnasium cannot make it, or it does not fit a group.
    """
    _register(id_)
    if not _has_native(id_):
        raise InvalidEnvironment(
            f'environment.vectorization = "native": {id_!r} was registered without a vector class; '
            'expected "sync", or "async"'
        )
    env = _made(id_, lambda: gymnasium.make_vec(id_, num_envs, "vector_entry_point", **kwargs))
    return _wrap(env, num_envs, id_, instances)


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
        if isinstance(env, VectorEnv):
            raise InvalidEnvironment(
                f"environment {self._id!r}: a function that returns a VectorEnv needs a parameter "
                "num_envs, which says of how many environments"
            )
        if not hasattr(env, "observation_space") or not hasattr(env, "action_space"):
            raise InvalidEnvironment(
                f"environment {self._id!r}: expected a gymnasium.Env, got {type(env).__name__}"
            )
        return env  # type: ignore[no-any-return]

    def make_vector(self, num_envs: int, instances: Instances) -> GymnasiumGroup:
        """Calls the function; raises InvalidEnvironment where it raises or returns no VectorEnv."""
        env = _made(self._id, lambda: self._function(num_envs=num_envs, **self._kwargs))
        return _wrap(env, num_envs, self._id, instances)


class GymnasiumGroup:
    """A Gymnasium vector environment as a group; see `envservers.environments.group.Group`."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], num_envs: int, instances: Instances | None = None
    ) -> None:
        """Of `num_envs` environments, which `reset` starts.

        Args:
            env: Resets itself on the next step.
            num_envs: Its environments.
            instances: Of the environment server.

        Raises:
            InvalidEnvironment: for spaces that the wire cannot carry, and for an object that is
                another environment already.
        """
        self._env = env
        self.num_envs = num_envs
        space: Any = getattr(env, "single_observation_space", None)
        self._space = space
        self.observation, self._encode = observation_codec(space)
        action_space: Any = getattr(env, "single_action_space", None)
        self.action, self._decode = action_codec(action_space)
        self._instances = instances or Instances()
        self._taken = _instances_in(env)
        self._instances.take(*self._taken)
        self._episodes = EpisodeTracker(num_envs)
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(self, seeds: Array) -> GroupRow:
        """Starts new episodes.

        A vector class of which `reset` takes a single seed, as Gymnasium's own native ones do, gets
        the first one.
        """
        seed_list: Any = [int(seed) for seed in seeds]
        observations = reset_observation(self._advance(lambda: self._reset_env(seed_list)))
        self._episodes.reset()
        no, zero = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.float32)
        self._ended = no
        episodes = self._episodes.add(zero, no)
        return GroupRow(self._observed(observations), zero, no, no, ~no, episodes)

    def step(self, actions: Array) -> GroupRow:
        """Steps all environments; those that had ended start their next episode.

        Raises:
            InvalidRow: where the environment returns rewards that are not finite, or anything of
                another shape, or that its dtype cannot hold.
        """
        result = self._advance(lambda: self._env.step(self._decode(actions)))
        observations, rewards, terminated, truncated, infos = step_parts(result)
        n, first = self.num_envs, self._ended
        rewards = fitted(rewards, np.dtype(np.float64), (n,), "rewards")
        terminated = flags(terminated, n, "terminated")
        truncated = flags(truncated, n, "truncated")
        with np.errstate(over="ignore"):
            sent_rewards = np.where(first, 0, rewards).astype(np.float32)
        if not np.isfinite(sent_rewards).all():
            raise InvalidRow(
                "not finite", f"the environment returned a reward that is not finite: {rewards}"
            )
        ended = terminated | truncated
        if ended.any():
            _check_ends(ended, first, infos)
        self._ended = ended
        return GroupRow(
            self._observed(observations),
            sent_rewards,
            terminated,
            truncated,
            first,
            self._episodes.add(rewards, ended),
        )

    def close(self) -> None:
        """Closes the environments; ends their processes within seconds."""
        self._instances.release(*self._taken)
        if workers_of(self._env):
            end_workers(self._env)
        else:
            self._env.close()

    def _reset_env(self, seeds: list[int]) -> Any:
        try:
            return self._env.reset(seed=seeds)  # type: ignore[arg-type]
        except (TypeError, gymnasium.error.Error):
            return self._env.reset(seed=seeds[0])

    def _advance(self, call: Callable[[], Any]) -> Any:
        """Calls; where a process has ended, that is the reason for what is raised."""
        try:
            return call()
        except (EOFError, OSError) as error:
            reason = how_workers_ended(self._env)
            if not reason:
                raise
            raise RuntimeError(reason) from error

    def _observed(self, observations: Any) -> Array:
        shape = (self.num_envs, *self.observation.shape)
        return self._encode(fitted(observations, self._space.dtype, shape, "observations"))


def _check_ends(ended: Array, first: Array, infos: Any) -> None:
    """Refuses rows of a vector class that does not reset on the next step, as it says it does."""
    if (ended & first).any():
        raise InvalidRow(
            "unfit",
            "an episode ended again in the step after its end: the step that follows an end must "
            "return the first observation of a new episode (AutoresetMode.NEXT_STEP)",
        )
    keys = infos if isinstance(infos, Mapping) else ()
    found = [key for key in ("final_obs", "final_observation") if key in keys]
    if found:
        raise InvalidRow(
            "unfit",
            f"the infos of a step that ends an episode hold {found[0]!r}: the vector class resets "
            "in that step, though its metadata says AutoresetMode.NEXT_STEP",
        )


def _instances_in(env: VectorEnv[Any, Any, Any]) -> list[object]:
    """What no other environment may be: the object, and those that Gymnasium steps in turn."""
    singles = getattr(env.unwrapped, "envs", None)
    return [env, *(singles if isinstance(singles, list) else ())]


def _wrap(env: object, num_envs: int, id_: str, instances: Instances) -> GymnasiumGroup:
    if not isinstance(env, VectorEnv):
        raise InvalidEnvironment(
            f"environment {id_!r}: expected a gymnasium.vector.VectorEnv of a function with a "
            f"parameter num_envs, got {type(env).__name__}"
        )
    try:
        mode = env.metadata.get("autoreset_mode")
        # Gymnasium takes the mode's name as well.
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
            raise InvalidEnvironment(
                f"environment {id_!r}: its vector class must reset on the next step "
                f'(metadata["autoreset_mode"] = AutoresetMode.NEXT_STEP), got {mode}'
            )
        if env.num_envs != num_envs:
            raise InvalidEnvironment(
                f"environment {id_!r}: asked for {num_envs} environments, got {env.num_envs}"
            )
        return GymnasiumGroup(env, num_envs, instances)
    except SameInstance:
        raise
    except InvalidEnvironment:
        close_failed(env.close)
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
    except InvalidEnvironment:
        raise
    except ENVIRONMENT_ERRORS as error:
        text = " ".join(str(error).split())
        if isinstance(error, WorkerError):
            line = f"{error.last_line()} (in a process of its own)"
            raise InvalidEnvironment(line) from error
        unknown = (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound)
        if isinstance(error, unknown) and ":" not in id_ and "Did you mean" not in text:
            text += f' An id that a package has to register is given as "package:{id_}".'
        raise InvalidEnvironment(
            f"environment {id_!r} cannot be made: {type(error).__name__}: {text}"
        ) from error
