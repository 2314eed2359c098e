"""Which objects run as an environment: each can be only one."""

from __future__ import annotations

from envservers.environments.group import InvalidEnvironment


class SameInstance(InvalidEnvironment):
    """One object for two environments: either would step the other."""


class Instances:
    """The environments of one server that run, without their wrappers."""

    def __init__(self) -> None:
        self._running: dict[int, object] = {}

    def take(self, *envs: object) -> None:
        """Adds objects that begin to run.

        Raises:
            SameInstance: where two are the same object, or one runs already; then none is added.
        """
        taken: dict[int, object] = {}
        for core in map(_core, envs):
            if id(core) in self._running or id(core) in taken:
                raise SameInstance(
                    f"an environment of type {type(core).__name__} is one and the same object as "
                    "another one that runs: make a new object for each"
                )
            taken[id(core)] = core
        self._running.update(taken)

    def release(self, *envs: object) -> None:
        """Removes objects that run no more."""
        for env in envs:
            self._running.pop(id(_core(env)), None)


def _core(env: object) -> object:
    return getattr(env, "unwrapped", env)
