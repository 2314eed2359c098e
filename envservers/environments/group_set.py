"""All groups of an environment server: made as the learner asks, kept over sessions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from envservers.environments.factory import Specs, make_guarded_group
from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS, Guard
from envservers.environments.group import Group, InvalidEnvironment
from envservers.environments.instances import Instances, SameInstance
from envservers.environments.sources import Sources
from envservers.supervision.recovery import Recovery
from envservers.supervision.shared_state import Supervision
from seed.wire.messages import Fault


class LostEnvironment(RuntimeError):
    """A package that could be imported before; to be tried again by the next process, later."""


class AllGroups:
    """The groups of one environment server, and their books.

    Attributes:
        all: In the order of HELLO; empty until they have been made.
    """

    def __init__(self, sizes: Sequence[int], supervision: Supervision) -> None:
        """Nothing is made yet."""
        self.all: list[Group] = []
        self._guards: list[Guard] = []
        self._sizes, self._supervision = sizes, supervision
        self._environment: Mapping[str, Any] = {}
        self._sources = Sources()

    def why_not_here(self, environment: Mapping[str, Any]) -> str:
        """Why another process has to make these environments; empty where this one may.

        What it has imported once, it would not read again.
        """
        if not self.all or self._supervision.supervisor is None:
            return ""
        if environment != self._environment:
            return "the learner wants another environment"
        changed = self._sources.find_changed()
        if changed:
            # What has been edited may run now.
            self._supervision.shared.forget_faults()
            return f"{changed} has changed"
        return ""

    def make(self, environment: Mapping[str, Any], expected: Specs) -> None:
        """Makes all groups, or keeps those that there are of the same environment.

        Raises:
            InvalidEnvironment: where they cannot be made, and none of them ever was.
            LostEnvironment: where what makes them cannot be had any more.
        """
        if self.all and environment == self._environment:
            return
        self.close()
        self._environment = environment
        self._supervision.shared.keep_faults_of(repr(environment))
        instances = Instances()
        for group, size in enumerate(self._sizes):

            def new_guard(num_units: int, whole: bool, group: int = group) -> Guard:
                """The guard of this group: over its units, or over it as a whole."""
                first_env = sum(self._sizes[:group])
                return Guard(self._supervision, group, first_env, num_units, whole=whole)

            try:
                made, guard = make_guarded_group(
                    environment, size, new_guard, expected, instances
                )
            except SameInstance:
                raise
            except InvalidEnvironment as error:
                if not self._supervision.shared.was_made:
                    raise
                raise LostEnvironment(f"it ran before, but now: {error}") from error
            self.all.append(made)
            self._guards.append(guard)
        self._sources.find_changed()

    def close(self) -> None:
        """Closes all groups; what they say to that helps nobody."""
        groups, self.all, self._guards = self.all, [], []
        for group in groups:
            with contextlib.suppress(*ENVIRONMENT_ERRORS):
                group.close()

    def ready_s(self, group: int) -> float:
        """`time.monotonic()` from which on a group has something to step; infinite for never."""
        return self._guards[group].ready_s

    def take_faults(self, group: int) -> list[Fault]:
        """The faults of a group since the last call, without their session."""
        return self._guards[group].take_faults()

    def take_all_faults(self) -> list[Fault]:
        """The same of all groups."""
        return [fault for guard in self._guards for fault in guard.take_faults()]

    def lasting_faults(self) -> list[Fault]:
        """What a new session is told of environments that stay down."""
        return [fault for guard in self._guards for fault in guard.lasting_faults()]

    def are_quarantined(self) -> bool:
        """Whether all environments stay down."""
        return all(guard.is_quarantined for guard in self._guards)

    def take_crash_report(self, environment: Mapping[str, Any]) -> Fault | None:
        """What there is to tell of the process before this one, once; without the session.

        What that process was stepping has failed once more, if it is of the same environment.
        """
        crash, self._supervision.crash = self._supervision.crash, None
        if crash is None:
            return None
        shared = self._supervision.shared
        restarts, quarantined = 0, False
        if crash.group is not None and shared.keep_faults_of(repr(environment)):
            first_env = sum(self._sizes[: crash.group])
            recovery = Recovery(shared.faults, first_env + (crash.index or 0))
            recovery.fail(time.monotonic())
            restarts, quarantined = recovery.restarts, recovery.quarantined
        return Fault(
            0, crash.group, crash.index, crash.kind, restarts, quarantined, False,
            crash.text,
        )  # fmt: skip
