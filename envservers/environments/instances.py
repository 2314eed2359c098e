"""Which objects are an environment at present: each can be only one."""

from __future__ import annotations

from envservers.environments.group import InvalidEnvironment


class SameInstance(InvalidEnvironment):
    """An object that is another environment already; stepped for both, it is right for neither."""


class Instances:
    """The environments of one server that run, without their wrappers."""

    def __init__(self) -> None:
        """None runs yet."""
        self._running: dict[int, object] = {}

    def take(self, *envs: object) -> None:
        """These objects begin to be environments.

        Raises:
            SameInstance: where one of them is another one, or was one already; then none does.
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
        """These objects are no environments any more."""
        for env in envs:
            self._running.pop(id(_core(env)), None)


def _core(env: object) -> object:
    return getattr(env, "unwrapped", env)
