"""All groups of an environment server: made as the learner asks, kept over sessions."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from envservers.environments.factory import Specs, make_restarting_group
from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS, FaultTracker
from envservers.environments.group import Group, InvalidEnvironment
from envservers.environments.instances import Instances, SameInstance
from envservers.supervision.recovery import Recovery
from envservers.supervision.shared_state import Supervision
from seed.wire.messages import Fault


class LostEnvironment(RuntimeError):
    """A package that could be imported before; to be tried again by the next process, later."""


class GroupSet:
    """The groups of one environment server, and what is known of their faults.

    Attributes:
        all: In the order of HELLO; empty until they have been made.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        supervision: Supervision,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is made yet.

        Args:
            sizes: Environments in each group.
            supervision: Where faults are written down.
            clock: Seconds that only go forward.
        """
        self.all: list[Group] = []
        self._trackers: list[FaultTracker] = []
        self._sizes, self._supervision, self._clock = sizes, supervision, clock
        self._environment: Mapping[str, Any] = {}
        self._sources = _Sources()

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

            def new_tracker(num_units: int, whole: bool, group: int = group) -> FaultTracker:
                """That of this group: over its environments, or over it as a whole."""
                first_env = sum(self._sizes[:group])
                return FaultTracker(
                    self._supervision, group, first_env, num_units, whole=whole, clock=self._clock
                )

            try:
                made, tracker = make_restarting_group(
                    environment, size, new_tracker, expected, instances
                )
            except SameInstance:
                raise
            except InvalidEnvironment as error:
                if not self._supervision.shared.was_made:
                    raise
                raise LostEnvironment(f"it ran before, but now: {error}") from error
            self.all.append(made)
            self._trackers.append(tracker)
        self._sources.find_changed()

    def close(self) -> None:
        """Closes all groups, whatever they raise."""
        groups, self.all, self._trackers = self.all, [], []
        for group in groups:
            with contextlib.suppress(*ENVIRONMENT_ERRORS):
                group.close()

    def ready_s(self, group: int) -> float:
        """From when on a group has something to step, on `clock`; infinite for never."""
        return self._trackers[group].ready_s

    def take_faults(self, group: int) -> list[Fault]:
        """The faults of a group since the last call, without their session."""
        return self._trackers[group].take_faults()

    def take_all_faults(self) -> list[Fault]:
        """The same of all groups."""
        return [fault for tracker in self._trackers for fault in tracker.take_faults()]

    def quarantined_faults(self) -> list[Fault]:
        """A fault for each environment that stays down, for a new session."""
        return [fault for tracker in self._trackers for fault in tracker.quarantined_faults()]

    def are_quarantined(self) -> bool:
        """Whether all environments stay down."""
        return all(tracker.is_quarantined for tracker in self._trackers)

    def take_crash_report(self, environment: Mapping[str, Any]) -> Fault | None:
        """The fault that ended the process before this one, once; without the session.

        It counts against what that process was stepping, if that is of the same environment.
        """
        crash, self._supervision.crash = self._supervision.crash, None
        if crash is None:
            return None
        shared = self._supervision.shared
        restarts, quarantined = 0, False
        if crash.group is not None and shared.keep_faults_of(repr(environment)):
            first_env = sum(self._sizes[: crash.group])
            recovery = Recovery(shared.faults, first_env + (crash.index or 0))
            recovery.fail(self._clock())
            restarts, quarantined = recovery.restarts, recovery.quarantined
        return Fault(
            0, crash.group, crash.index, crash.kind, restarts, quarantined, False,
            crash.text,
        )  # fmt: skip


class _Sources:
    """The files of all modules that were imported after this object was made."""

    def __init__(self) -> None:
        self._before = set(sys.modules)
        # Time of the last change and size, as they were when a file was first seen.
        self._seen: dict[str, tuple[int, int]] = {}

    def find_changed(self) -> str:
        """A file that is not as it was when it was first seen here; empty where all are."""
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if name in self._before or not isinstance(path, str):
                continue
            try:
                state = os.stat(path)
            except OSError:
                # It has been removed: there is no new code to run.
                continue
            seen = (state.st_mtime_ns, state.st_size)
            if self._seen.setdefault(path, seen) != seen:
                return path
        return ""
