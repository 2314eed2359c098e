"""A group of single Gymnasium environments, stepped in turn; each fails and is made anew alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np

from envservers.environments.closing import close_failed
from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS, FaultTracker
from envservers.environments.group import (
    Array,
    EpisodeTracker,
    GroupRow,
    InvalidEnvironment,
    InvalidRow,
    fit_observations,
    restart_seeds,
)
from envservers.environments.instances import Instances, SameInstance
from envservers.environments.returned import fitted, flag, reset_observation, step_parts
from envservers.environments.space_conversion import Convert, action_codec, observation_codec
from seed.wire.spaces import SpaceSpec

Env = gymnasium.Env[Any, Any]


class SyncGroup:
    """Environments of one kind, stepped in turn; see `envservers.environments.group.Group`."""

    def __init__(
        self,
        make: Callable[[], Env],
        num_envs: int,
        tracker: FaultTracker | None = None,
        expected: tuple[SpaceSpec, SpaceSpec] | None = None,
        instances: Instances | None = None,
    ) -> None:
        """Makes the environments, except those that are in quarantine already.

        Args:
            make: Makes one environment, at first and after a fault.
            num_envs: Number of environments.
            tracker: Of their faults, with a unit for each. Without it, what an environment raises
                goes to the caller.
            expected: Specs of observations and actions where none can be made for now.
            instances: Of the environment server.

        Raises:
            InvalidEnvironment: where the first one cannot be made, or has spaces that the wire
                cannot carry, and none has ever been made; SameInstance where several are one.
        """
        self.num_envs = num_envs
        self._make, self._tracker, self._instances = make, tracker, instances or Instances()
        self._envs: list[Env | None] = [None] * num_envs
        self._episodes = EpisodeTracker(num_envs)
        self._ended = np.zeros(num_envs, np.bool_)
        self._seeds = np.zeros(num_envs, np.int64)
        self._restarts = 0
        # Of the first environment, and codecs of those whose spaces differ from that.
        self._spaces: tuple[Any, Any] | None = None
        self._own_codecs: dict[int, tuple[Convert, Convert]] = {}
        # Specs that stand for the group before it has spaces.
        self._promised: tuple[SpaceSpec, SpaceSpec] | None = None
        if expected is not None:
            self.observation, self.action = expected
        for index in range(num_envs) if tracker is None else tracker.startable():
            try:
                self._make_env(index)
            except SameInstance:
                self.close()
                raise
            except ENVIRONMENT_ERRORS as error:
                if self._spaces is None and not (tracker is not None and tracker.was_made):
                    raise
                self._fail(index, error)
        if self._spaces is None:
            self._promised = expected

    def reset(self, seeds: Array) -> GroupRow:
        """Starts a new episode in every environment that runs or may be started."""
        n = self.num_envs
        self._seeds = seeds
        self._episodes.reset()
        for index, env in enumerate(self._envs):
            if env is not None:
                self._reset_env(index, env, int(seeds[index]))
        no = np.zeros(n, np.bool_)
        return self._finish(np.zeros(n), no, no.copy(), ~no)

    def step(self, actions: Array) -> GroupRow:
        """Steps all environments that run; those that had ended start their next episode."""
        n, first = self.num_envs, self._ended
        rewards = np.zeros(n)
        terminated, truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        starts = first.tolist()
        for index, action in enumerate(self._decoded(actions)):
            env = self._envs[index]
            if env is None:
                continue
            if starts[index]:
                self._reset_env(index, env, None)
                continue
            try:
                if self._tracker is not None:
                    self._tracker.enter(index)
                result: Any = env.step(action)
                # Calls cost more than these comparisons, which nearly always are enough.
                if type(result) is not tuple or len(result) != 5:
                    result = step_parts(result)
                observation, rewards[index], is_terminated, is_truncated, _ = result
                if is_terminated is not False and is_terminated is not np.False_:
                    terminated[index] = flag(is_terminated, "terminated")
                if is_truncated is not False and is_truncated is not np.False_:
                    truncated[index] = flag(is_truncated, "truncated")
                self._keep(index, observation)
            except ENVIRONMENT_ERRORS as error:
                self._fail(index, error)
        return self._finish(rewards, terminated, truncated, first)

    def close(self) -> None:
        """Closes the environments, all of them; then raises what one of them has raised."""
        envs, self._envs = self._envs, [None] * self.num_envs
        error: BaseException | None = None
        for env in envs:
            if env is not None:
                self._instances.release(env)
                try:
                    env.close()
                except ENVIRONMENT_ERRORS as raised:
                    error = raised
        if error is not None:
            raise error

    def _finish(
        self, rewards: Array, terminated: Array, truncated: Array, first: Array
    ) -> GroupRow:
        """The group's row, once what cannot be sent and what is due for a start are seen to."""
        observations = self._observations()
        self._fail_unfit(observations, rewards)
        down = restarted = None
        if self._tracker is not None and self._tracker.down:
            restarted = self._restart()
            down = np.array([env is None for env in self._envs], np.bool_)
            broken = down | restarted
            for values in (rewards, terminated, truncated):
                values[broken] = 0
            first = first | broken
            self._episodes.restart(np.flatnonzero(broken))
            observations = self._observations()
            observations[down] = 0
        self._ended = ended = terminated | truncated
        episodes = self._episodes.add(rewards, ended)
        if self._tracker is not None:
            self._tracker.end_step()
        return GroupRow(
            observations, rewards.astype(np.float32), terminated, truncated, first, episodes,
            down, restarted,
        )  # fmt: skip

    def _observations(self) -> Array:
        """What the environments returned last, in the wire's form."""
        if self._spaces is None:
            shape = (self.num_envs, *self.observation.shape)
            return np.zeros(shape, self.observation.dtype)
        encoded = self._encode(self._values)
        for index, (encode, _) in self._own_codecs.items():
            encoded[index] = encode(self._values[index : index + 1])[0]
        return encoded

    def _decoded(self, actions: Array) -> Iterable[Any]:
        """What each environment is stepped with."""
        if self._spaces is None:
            return actions
        decoded = self._decode(actions)
        if not self._own_codecs:
            return decoded
        each = list(decoded)
        for index, (_, decode) in self._own_codecs.items():
            each[index] = decode(actions[index : index + 1])[0]
        return each

    def _fail_unfit(self, observations: Array, rewards: Array) -> None:
        # As float32, which a float64 may be too large for.
        with np.errstate(over="ignore"):
            fit = np.isfinite(rewards.astype(np.float32))
        fit_values, kind = fit_observations(observations, self.observation)
        if fit.all() and fit_values.all():
            return
        for index in np.flatnonzero(~(fit & fit_values)).tolist():
            if self._envs[index] is None:
                continue
            if fit[index]:
                self._fail(index, _unfit(kind, "an observation"))
            else:
                self._fail(index, _unfit("not finite", f"the reward {rewards[index]}"))

    def _restart(self) -> Array:
        """Starts what is down and due; which environments it has started. `[n] bool`"""
        restarted = np.zeros(self.num_envs, np.bool_)
        for index in self._tracker.startable() if self._tracker is not None else ():
            self._restarts += 1
            try:
                env = self._make_env(index)
                seed = restart_seeds(self._seeds[index : index + 1], self._restarts)
                self._begin_episode(index, env, int(seed[0]))
                fits, kind = fit_observations(self._observations()[index:][:1], self.observation)
                if not fits.all():
                    raise _unfit(kind, "an observation")
            except ENVIRONMENT_ERRORS as error:
                self._fail(index, error)
            restarted[index] = self._envs[index] is not None
        return restarted

    def _make_env(self, index: int) -> Env:
        if self._tracker is not None:
            self._tracker.enter(index)
        env = self._make()
        self._instances.take(env)
        try:
            self._learn_spaces(index, env)
        except InvalidEnvironment:
            self._instances.release(env)
            close_failed(env.close)
            raise
        self._envs[index] = env
        if self._tracker is not None:
            self._tracker.start(index)
        return env

    def _learn_spaces(self, index: int, env: Env) -> None:
        """Learns the spaces of an environment; on the wire, those of all are of the same form."""
        spaces: Any = (env.observation_space, env.action_space)
        self._own_codecs.pop(index, None)
        if spaces == self._spaces:
            return
        observation, encode = observation_codec(spaces[0])
        action, decode = action_codec(spaces[1])
        if self._spaces is not None:
            if (observation, action) != (self.observation, self.action):
                raise InvalidEnvironment(
                    f"an environment has the spaces {spaces}, the first one had {self._spaces}"
                )
            self._own_codecs[index] = encode, decode
            return
        if self._promised not in (None, (observation, action)):
            raise InvalidEnvironment(f"made anew, it has other spaces: {spaces}")
        self.observation, self._encode = observation, encode
        self.action, self._decode = action, decode
        # As the environments return it, before it is brought into the wire's form.
        self._values = np.zeros((self.num_envs, *spaces[0].shape), spaces[0].dtype)
        self._spaces = spaces

    def _reset_env(self, index: int, env: Env, seed: int | None) -> None:
        try:
            self._begin_episode(index, env, seed)
        except ENVIRONMENT_ERRORS as error:
            self._fail(index, error)

    def _begin_episode(self, index: int, env: Env, seed: int | None) -> None:
        if self._tracker is not None:
            self._tracker.enter(index)
        self._keep(index, reset_observation(env.reset(seed=seed)))

    def _keep(self, index: int, observation: Any) -> None:
        shape, dtype = self._values.shape[1:], self._values.dtype
        if getattr(observation, "dtype", None) == dtype and observation.shape == shape:
            self._values[index] = observation
            return
        self._values[index] = fitted(observation, dtype, shape)

    def _fail(self, index: int, error: BaseException) -> None:
        if self._tracker is None:
            raise error
        env, self._envs[index] = self._envs[index], None
        remark = ""
        if env is not None:
            self._instances.release(env)
            self._tracker.enter(index)
            remark = close_failed(env.close)
        self._tracker.fail(index, error, remark)


def _unfit(kind: str, what: str) -> InvalidRow:
    return InvalidRow(kind, f"the environment returned {what} that is {kind}")
