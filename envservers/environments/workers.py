"""Environments in a process each, stepped together, which end when they are asked to."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS
from envservers.environments.group import Array, InvalidEnvironment, InvalidRow
from envservers.environments.returned import fitted, flag, reset_observation, step_parts
from envservers.environments.space_conversion import action_codec, observation_codec
from seed.wire.spaces import SpaceSpec

_PATIENCE_S = 3.0
_DEATH_S = 1.0

Env = gymnasium.Env[Any, Any]


class WorkerError(RuntimeError):
    """What was raised in another process; its text is the traceback from there."""

    def last_line(self) -> str:
        """The exception alone."""
        return str(self).strip().rpartition("\n")[2]


class InvalidWorkerRow(InvalidRow):
    """An InvalidRow of another process, which Gymnasium makes again of its text alone."""

    def __init__(self, text: object) -> None:
        super().__init__("unfit", str(text))


class Workers(AsyncVectorEnv):
    """Environments in a process each; they are made there, and one more for its spaces here."""

    def __init__(self, make: Callable[[], Env], num_envs: int) -> None:
        """Starts `num_envs` processes, which call `make`.

        Raises:
            WorkerError: where it raises there.
            RuntimeError: where a process ends instead.
        """
        try:
            # The group copies what it gets, so this class need not do it as well. A plain fork of
            # a process with ZeroMQ's threads could deadlock.
            super().__init__(
                [partial(_make_wire_env, make, os.getpid())] * num_envs, copy=False,
                context="forkserver", autoreset_mode=AutoresetMode.NEXT_STEP,
            )  # fmt: skip
        except ENVIRONMENT_ERRORS as error:
            unmade = self._why_unmade() if isinstance(error, RuntimeError) else ""
            reason = how_workers_ended(self) if isinstance(error, EOFError | OSError) else ""
            end_workers(self)
            if unmade:
                raise WorkerError(unmade) from None
            if reason:
                raise RuntimeError(reason) from error
            raise

    def _why_unmade(self) -> str:
        """What was raised in a process that could not make its environment; empty for nothing."""
        # Where another error is the reason, a process may have ended.
        with contextlib.suppress(EOFError, OSError):
            reasons = self.call("why_unmade") if workers_of(self) else ()
            return next(filter(None, reasons), "")
        return ""

    def close_extras(self, *arguments: object, **options: object) -> None:
        """Ends the processes within seconds, whatever they do."""
        end_workers(self)


def workers_of(env: object) -> list[BaseProcess]:
    """The processes of a vector environment; none where it is of another kind than Gymnasium's."""
    processes = getattr(getattr(env, "unwrapped", env), "processes", None)
    if not isinstance(processes, list):
        return []
    return [process for process in processes if isinstance(process, BaseProcess)]


def how_workers_ended(env: object) -> str:
    """Which processes of a vector environment have come to an end, and how; empty for none."""
    processes = workers_of(env)
    if processes:
        multiprocessing.connection.wait([process.sentinel for process in processes], _DEATH_S)
    return ", ".join(
        f"the process of environment {index} ended with exit code {process.exitcode}"
        for index, process in enumerate(processes)
        if process.exitcode is not None
    )


def end_workers(env: object) -> None:
    """Has all processes close their environments and end; kills those that take too long.

    It does not ask what they are doing: Gymnasium's own way waits for the end of a step first.
    """
    vector: Any = getattr(env, "unwrapped", env)
    for pipe in getattr(vector, "parent_pipes", ()):
        with contextlib.suppress(OSError, AttributeError):
            pipe.send(("close", None))
    processes = workers_of(vector)
    deadline_s = time.monotonic() + _PATIENCE_S
    for process in processes:
        process.join(max(deadline_s - time.monotonic(), 0.0))
    for process in processes:
        process.kill()
    for process in processes:
        process.join(_DEATH_S)
    for pipe in getattr(vector, "parent_pipes", ()):
        with contextlib.suppress(OSError, AttributeError):
            pipe.close()
    vector.closed = True


class _Unmade(Env):
    """Stands for an environment that could not be made: its spaces are those of no other.

    Gymnasium's processes end without a word where an environment cannot be made. But they compare
    spaces at first, and answer calls even where these differ.
    """

    observation_space = action_space = Dict()

    def __init__(self, why_unmade: str) -> None:
        self.why_unmade = why_unmade


def _make_wire_env(make: Callable[[], Env], group_pid: int) -> Env:
    """Makes an environment; in a process of its own, it does not raise."""
    try:
        return _WireEnv(make)
    except ENVIRONMENT_ERRORS as error:
        if os.getpid() == group_pid:
            raise
        refused = isinstance(error, InvalidEnvironment)
        return _Unmade(str(error) if refused else traceback.format_exc())


class _WireEnv(Env):
    """An environment as the wire sees it: checked here, as Gymnasium cuts what does not fit.

    Spaces are the wire's, so that those of all environments are equal, whatever their bounds. Of
    the infos nothing is used, and they are left out: Gymnasium cannot join those that differ.
    """

    why_unmade = ""

    def __init__(self, make: Callable[[], Env]) -> None:
        self._env, self._pid = make(), os.getpid()
        self._space: Any = self._env.observation_space
        observation, self._encode = observation_codec(self._space)
        action, self._decode = action_codec(self._env.action_space)
        self.observation_space, self.action_space = _space_of(observation), _space_of(action)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode."""
        with self._told():
            return self._observed(reset_observation(self._env.reset(seed=seed))), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps it with an action of the wire's form."""
        with self._told():
            decoded = self._decode(np.asarray(action)[None])[0]
            observation, reward, terminated, truncated, _ = step_parts(self._env.step(decoded))
            return (
                self._observed(observation), float(reward),
                flag(terminated, "terminated"), flag(truncated, "truncated"), {},
            )  # fmt: skip

    def close(self) -> None:
        """Closes it."""
        self._env.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Has whatever is raised tell the other process all that is known of it."""
        try:
            yield
        except InvalidRow as error:
            raise InvalidWorkerRow(error) from None
        except ENVIRONMENT_ERRORS:
            raise WorkerError(traceback.format_exc()) from None
        finally:
            # Of two processes that come back from the environment, one has work to do.
            if os.getpid() != self._pid:
                os._exit(0)

    def _observed(self, observation: Any) -> Array:
        fit = fitted(observation, self._space.dtype, self._space.shape)
        encoded: Array = self._encode(fit[None])[0]
        return encoded


def _space_of(spec: SpaceSpec) -> gymnasium.Space[Any]:
    """The widest space of this form."""
    if spec.n is not None:
        return Discrete(spec.n)
    dtype: Any = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return Box(-np.inf, np.inf, spec.shape, dtype)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return Box(low, high, spec.shape, dtype)

