"""The environment server: says HELLO, steps what the learner asks for, and survives the learner."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from envservers.connection import Connection, Denied
from envservers.environments.group import InvalidEnvironment
from envservers.environments.group_set import GroupSet
from envservers.session import Session
from envservers.states import Event, Lifecycle, State
from envservers.supervision.shared_state import Supervision
from seed.wire.codec import decode
from seed.wire.errors import WireError
from seed.wire.messages import Actions, Fault, Frame, Goodbye, Hello, Ping, Refusal, Step, Welcome
from seed.wire.terminal import counted, printable

EXIT_DONE, EXIT_CRASH, EXIT_REFUSED, EXIT_DENIED = 0, 1, 2, 76
_LONGEST_WAIT_S, _PARENT_CHECK_INTERVAL_S = 30.0, 1.0
# Of what an exception says, in a line that says more than that.
_LONGEST_REASON = 500


class EnvServer:
    """Runs groups of environments for one learner after the other; one thread, one socket.

    Args:
        connection: To the learner's address; `run` closes it.
        group_sizes: Environments in each group. While one group is stepped, the learner works on
            the others.
        once: Leave with the learner, and with the process that started this one, instead of
            waiting for the next learner.
        wait_s: Leave when there has been no session with a learner for so long.
        name: What the learner's log calls this server; by default host and process id.
        supervision: What the supervisor of this process gives it.
        say: Takes lines for the person who watches.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        connection: Connection,
        group_sizes: Sequence[int],
        *,
        once: bool = False,
        wait_s: float = math.inf,
        name: str = "",
        supervision: Supervision | None = None,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """HELLO waits for `run`."""
        self.dropped_messages = 0
        self._supervision = supervision or Supervision()
        # What whoever started it knows it by, whichever process runs at present.
        pid = self._supervision.supervisor or os.getpid()
        name = name or f"{socket.gethostname()}:{pid}"
        self._hello = Hello(self._supervision.server_id, tuple(group_sizes), name)
        self._once, self._wait_s = once, wait_s
        self._say, self._clock = say or _say_on_stderr, clock
        self._parent = os.getppid()
        self._connection, self._address = connection, connection.address
        self._groups = GroupSet(group_sizes, self._supervision, clock)
        self._lifecycle = Lifecycle(clock(), wait_s=wait_s, jitter=self._supervision.jitter)
        self._stop_requested = False
        # Only while PLAYING, and by group: actions that wait until one of its environments may be
        # started again.
        self._session: Session | None = None
        self._held: dict[int, Actions] = {}
        # The newest ones, for the last line of a server that ends over them.
        self._last_refusal = self._last_fault = ""

    def run(self) -> int:
        """Serves until there is a reason to leave; returns the exit code of the process.

        0: stopped, or the learner has finished (`once`). 1: all environments are in quarantine, or
        no learner came within `wait_s`. 2: the learner refuses this server, or its environment
        cannot be made here and never was. 76: the learner does not allow its key, or one of the
        two has keys and the other none.
        """
        try:
            while (exit_code := self._lifecycle.exit_code) is None:
                self.turn()
            if not self._supervision.shared.renewing:
                self._supervision.shared.exit_code = exit_code
            return exit_code
        finally:
            # Some environments never return from `close`: for that, the supervisor has a deadline.
            self._supervision.shared.ending = True
            self._supervision.step_timer.stop()
            self._connection.close()
            self._groups.close()

    def turn(self) -> None:
        """Does what is due, then waits for something to happen, and handles that."""
        self._supervision.step_timer.set_back()
        self._advance_held()
        self._send_what_is_due()
        self._connection.wait(self._idle_s())
        self._receive()
        if self._is_to_stop():
            self._leave(EXIT_DONE, "environment server stopped")

    def stop(self) -> None:
        """Makes `run` say goodbye and return 0; may be called by threads and signal handlers."""
        self._stop_requested = True
        self.wake()

    def wake(self) -> None:
        """Makes `run` look whether the supervisor was asked to end; for signal handlers, too."""
        self._connection.wake()

    def _is_to_stop(self) -> bool:
        return self._stop_requested or self._supervision.shared.asked

    def _change(self, event: Event) -> None:
        """Goes on to the next state, which is that of no session but while PLAYING."""
        self._lifecycle.handle(event, self._clock())
        self._held.clear()
        if self._lifecycle.state is not State.PLAYING:
            self._session = None

    def _receive(self) -> None:
        if self._is_orphaned():
            self._leave(EXIT_DONE, "the process that started this one has ended")
        if self._lifecycle.gives_up(self._clock()):
            reason = f": {self._last_refusal}" if self._last_refusal else ""
            self._say(
                f"no session with a learner at {self._address} within {self._wait_s:g} s{reason}"
            )
            self._lifecycle.leave(EXIT_CRASH)
        # Messages first: those of a connection arrived before it was lost, and then come to an end.
        if self._handle_messages():
            self._follow_connection()

    def _handle_messages(self) -> bool:
        """Handles those that have arrived, one for each group at most; whether that was all.

        A learner may answer faster than the groups are stepped, so that there is always one more.
        """
        most = len(self._hello.group_sizes)
        handled = 0
        for frames in islice(self._connection.messages(), most):
            if self._lifecycle.state is State.LEAVING or self._is_to_stop():
                return False
            handled += 1
            try:
                self._handle(frames)
            except WireError as error:
                # It may have been the actions that a group waits for.
                self._start_over(f"a message of the learner cannot be used: {error}")
        return handled < most and self._lifecycle.state is not State.LEAVING

    def _follow_connection(self) -> None:
        was_warned = bool(self._connection.warning)
        try:
            for connected in self._connection.changes():
                if connected:
                    self._change(Event.CONNECTED)
                elif self._lifecycle.takes(Event.DISCONNECTED):
                    self._lose_connection()
        except Denied as denied:
            self._say(str(denied))
            self._lifecycle.leave(EXIT_DENIED)
        if self._connection.warning and not was_warned:
            self._lifecycle.hasten_notice(self._clock())

    def _lose_connection(self) -> None:
        self._say(f"lost the connection to {self._address}")
        if self._once and self._session is not None:
            self._lifecycle.leave(EXIT_DONE)
        self._change(Event.DISCONNECTED)

    def _is_orphaned(self) -> bool:
        if self._supervision.is_abandoned():
            return True
        starter_ended = self._supervision.shared.starter_ended or os.getppid() != self._parent
        return self._once and starter_ended

    def _send_what_is_due(self) -> None:
        now_s = self._clock()
        if now_s >= self._lifecycle.hello_due_s:
            sent = self._connection.send(self._hello)
            self._change(Event.HELLO_SENT if sent else Event.HELLO_UNSENT)
        if self._lifecycle.take_notice(now_s):
            if self._lifecycle.state is State.CONNECTING:
                self._say(f"waiting for a learner at {self._address}{self._connection.warning}")
            else:
                self._say(f"no answer from the learner at {self._address} yet; still waiting")

    def _idle_s(self) -> float:
        due_s = min([self._lifecycle.due_s, *map(self._groups.ready_s, self._held)])
        supervised = self._supervision.supervisor is not None
        longest_s = _PARENT_CHECK_INTERVAL_S if self._once or supervised else _LONGEST_WAIT_S
        longest_s = min(longest_s, self._supervision.step_timer.interval_s)
        return min(max(due_s - self._clock(), 0.0) + 0.001, longest_s)

    def _handle(self, frames: list[Frame]) -> None:
        message = decode(frames)
        match message:
            case Actions():
                self._advance(message)
            case Welcome() if self._lifecycle.takes(Event.WELCOMED):
                self._begin(message)
            case Refusal():
                self._refused(message)
            case Goodbye() if self._session is None or message.session == self._session.number:
                self._say(f"the learner says goodbye: {message.reason}")
                self._change(Event.ENDED)
                if self._once:
                    self._lifecycle.leave(EXIT_DONE)
            case Ping():
                # It has done its work by arriving.
                return
            case _:
                self.dropped_messages += 1

    def _advance(self, message: Actions) -> None:
        if self._session is None or not self._session.awaits(message):
            self.dropped_messages += 1
            return
        if self._groups.ready_s(message.group) > self._clock():
            # Rows of environments that are all down would go round as fast as the network can.
            self._held[message.group] = message
            return
        try:
            step = self._session.advance(message)
        except WireError as error:
            # The learner waits for this group's next row, which there cannot be.
            self._start_over(f"the learner sent actions that cannot be taken: {error}")
            return
        self._lifecycle.work()
        self._last_refusal = ""
        self._send_faults(self._groups.take_faults(message.group))
        if self._lifecycle.state is State.PLAYING:
            self._send_step(step)

    def _advance_held(self) -> None:
        now_s = self._clock()
        for group in [group for group in self._held if self._groups.ready_s(group) <= now_s]:
            # A step before may have ended the session.
            message = self._held.pop(group, None)
            if message is not None and self._lifecycle.state is State.PLAYING:
                self._advance(message)

    def _begin(self, welcome: Welcome) -> None:
        reason = self._groups.why_not_here(welcome.environment)
        if reason:
            self._say(f"{reason}: environments are made in a new process")
            self._supervision.shared.renewing = True
            self._leave(EXIT_DONE, reason, welcome.session)
            return
        # Before any environment is made: that may be the end of this process, too.
        self._report_crash(welcome)
        try:
            self._groups.make(welcome.environment, (welcome.observation, welcome.action))
            session = Session(welcome, self._groups.all)
            steps = session.first_steps()
        except InvalidEnvironment as error:
            self._say(str(error))
            self._leave(EXIT_REFUSED, str(error), welcome.session)
            return
        self._session = session
        self._change(Event.WELCOMED)
        environments = counted(self._hello.num_envs, "environment")
        self._say(f"running {environments} for {self._address}")
        self._send_faults([*self._groups.quarantined_faults(), *self._groups.take_all_faults()])
        if self._lifecycle.state is State.PLAYING:
            for step in steps:
                self._send_step(step)

    def _report_crash(self, welcome: Welcome) -> None:
        fault = self._groups.take_crash_report(welcome.environment)
        if fault is not None:
            self._last_fault = describe(fault)
            self._connection.send(replace(fault, session=welcome.session))

    def _send_faults(self, faults: Sequence[Fault]) -> None:
        """Tells the learner; leaves where nothing is left that could be stepped."""
        if not faults or self._session is None:
            return
        for fault in faults:
            if not fault.repeated:
                self._last_fault = describe(fault)
            if fault.quarantined and not fault.repeated:
                self._say(f"{_name(fault)} has failed too often and stays down")
            self._connection.send(replace(fault, session=self._session.number))
        if self._groups.are_quarantined():
            reason = "all environments have failed too often"
            if self._last_fault:
                reason += f"; the last fault: {self._last_fault}"
            self._say(reason)
            self._leave(EXIT_CRASH, reason)

    def _send_step(self, step: Step) -> None:
        if not self._connection.send(step):
            self._change(Event.ENDED)

    def _refused(self, refusal: Refusal) -> None:
        if refusal.session and (self._session is None or refusal.session != self._session.number):
            # It answers a message of a session that this side has left already.
            self.dropped_messages += 1
            return
        if not refusal.retry:
            self._say(f"refused by the learner: {refusal.reason}")
            self._lifecycle.leave(EXIT_REFUSED)
            return
        if not self._lifecycle.takes(Event.REFUSED):
            self.dropped_messages += 1
            return
        if refusal.reason != self._last_refusal:
            self._last_refusal = refusal.reason
            self._say(f"the learner asks for another attempt: {refusal.reason}")
        self._change(Event.REFUSED)

    def _start_over(self, reason: str) -> None:
        """Leaves the session, if there is one, for a new one with new histories."""
        self._say(reason)
        if self._session is not None:
            self._connection.send(Goodbye(self._session.number, reason))
            self._change(Event.ENDED)

    def _leave(self, exit_code: int, reason: str, session: int | None = None) -> None:
        """Tells the learner, and ends; nothing where that is under way already."""
        if self._lifecycle.state is State.LEAVING:
            return
        if session is None and self._session is not None:
            session = self._session.number
        if session is not None:
            self._connection.send(Goodbye(session, reason))
        self._lifecycle.leave(exit_code)


def _name(fault: Fault) -> str:
    if fault.group is None:
        return "the environment server"
    whole = f"group {fault.group}"
    return whole if fault.index is None else f"environment {fault.index} of {whole}"


def describe(fault: Fault) -> str:
    """The fault in one line, with what was raised, as far as its traceback says it."""
    # The stacks of what hung have their newest call first, and end anywhere.
    said = [line for line in fault.traceback.split("\n") if line.strip() and line[0] != " "]
    reason = f": {said[-1][:_LONGEST_REASON]}" if said and fault.kind != "hung" else ""
    return f"{_name(fault)} {fault.kind}{reason}"


def _say_on_stderr(line: str) -> None:
    # Reasons come from the learner, and from environments.
    print(f"seed-envserver: {printable(line)}", file=sys.stderr, flush=True)
