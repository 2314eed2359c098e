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

from envservers.connection import Connection, Denied, Keys
from envservers.environments.group import InvalidEnvironment
from envservers.environments.group_set import AllGroups
from envservers.session import Session
from envservers.supervision.recovery import doubled_s, jitter
from envservers.supervision.shared_state import Supervision
from seed.wire.codec import decode
from seed.wire.errors import WireError
from seed.wire.messages import Actions, Fault, Frame, Goodbye, Hello, Ping, Refusal, Step, Welcome
from seed.wire.terminal import printable

EXIT_DONE, EXIT_CRASH, EXIT_REFUSED, EXIT_DENIED = 0, 1, 2, 76
_CONNECT_PATIENCE_S = 1.0
_ANSWER_TIMEOUT_S = 5.0
_NOTICE_INTERVAL_S = 30.0
_PARENT_CHECK_INTERVAL_S = 1.0
_SHORTEST_DELAY_S, _LONGEST_DELAY_S = 0.2, 5.0
# Of what an exception says, in a line that says more than that.
_LONGEST_REASON = 500


class EnvServer:
    """Runs groups of environments for the learner at an address; one thread, one socket.

    Args:
        address: The learner's, "tcp://HOST:PORT" or "ipc://PATH".
        group_sizes: Environments in each group. While one group is stepped, the learner works on
            the others.
        once: Leave with the learner, and with the process that started this one, instead of
            waiting for the next learner.
        wait_s: Leave when there has been no session with a learner for so long.
        name: What the learner's log calls this server; by default host and process id.
        supervision: What the process that watches over this one has to do with it.
        keys: For a learner that has keys.
        say: Takes lines for the person who watches.
    """

    def __init__(
        self,
        address: str,
        group_sizes: Sequence[int],
        *,
        once: bool = False,
        wait_s: float = math.inf,
        name: str = "",
        supervision: Supervision | None = None,
        keys: Keys | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Starts connecting; HELLO waits for `run`.

        Raises:
            UnusableAddress: where the address cannot mean a learner.
        """
        self.dropped_messages = 0
        self._supervision = supervision or Supervision()
        # What whoever started it knows it by, whichever process runs at present.
        pid = self._supervision.supervisor or os.getpid()
        name = name or f"{socket.gethostname()}:{pid}"
        self._hello = Hello(self._supervision.server_id, tuple(group_sizes), name)
        self._address, self._once, self._say = address, once, say or _say_on_stderr
        self._wait_s = wait_s
        self._parent = os.getppid()
        self._connection = Connection(address, keys)
        self._groups = AllGroups(group_sizes, self._supervision)
        # By group: actions that wait until one of its environments may be started again.
        self._held: dict[int, Actions] = {}
        self._session: Session | None = None
        self._connected = self._hello_sent = self._stopping = False
        self._exit_code: int | None = None
        # time.monotonic() of the next HELLO, and of the next notice that there is no learner
        self._hello_due_s = math.inf
        self._notice_due_s = time.monotonic() + _CONNECT_PATIENCE_S
        # time.monotonic() at which waiting for a session began, while there is none
        self._waiting_since_s = time.monotonic()
        # Sessions that came to nothing since the learner last worked with one.
        self._failed_sessions = 0
        self._last_refusal = ""
        # What is known of the newest fault, for the last line of a server that ends over them.
        self._last_fault = ""

    def run(self) -> int:
        """Serves until there is a reason to leave; returns the exit code of the process.

        0: stopped, or the learner has finished (`once`). 1: all environments are in quarantine, or
        no learner came within `wait_s`. 2: the learner refuses this server, or its environment
        cannot be made here and never was. 76: the learner does not allow its key, or one of the
        two has keys and the other none.
        """
        try:
            while self._exit_code is None:
                self._supervision.step_timer.set_back()
                self._advance_held()
                self._send_what_is_due()
                self._connection.wait(self._idle_s())
                self._receive()
                if self._is_to_stop() and self._exit_code is None:
                    self._leave(EXIT_DONE, "environment server stopped")
            if not self._supervision.shared.renewing:
                self._supervision.shared.exit_code = self._exit_code
            return self._exit_code
        finally:
            # Some environments do not return from being closed: the supervisor has its eye on it.
            self._supervision.shared.ending = True
            self._supervision.step_timer.stop()
            self._connection.close()
            self._groups.close()

    def stop(self) -> None:
        """Makes `run` say goodbye and return 0; may be called by threads and signal handlers."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Makes `run` look whether the supervisor was asked to end; for signal handlers, too."""
        self._connection.wake()

    def _is_to_stop(self) -> bool:
        return self._stopping or self._supervision.shared.asked

    def _receive(self) -> None:
        if self._is_orphaned():
            self._leave(EXIT_DONE, "the process that started this one has ended")
        if self._session is None and time.monotonic() >= self._waiting_since_s + self._wait_s:
            reason = f": {printable(self._last_refusal)}" if self._last_refusal else ""
            self._say(
                f"no session with a learner at {self._address} within {self._wait_s:g} s{reason}"
            )
            self._exit_code = EXIT_CRASH
        # Messages first: those of a connection arrived before it was lost, and then come to an end.
        if self._handle_messages():
            self._follow_changes()

    def _handle_messages(self) -> bool:
        """Handles those that have arrived, one for each group at most; whether that was all.

        A learner may answer faster than the groups are stepped, so that there is always one more.
        """
        most = len(self._hello.group_sizes)
        handled = 0
        for frames in islice(self._connection.messages(), most):
            if self._exit_code is not None or self._is_to_stop():
                return False
            handled += 1
            try:
                self._handle(frames)
            except WireError as error:
                # It may have been the actions that a group waits for.
                self._start_over(f"a message of the learner cannot be used: {error}")
        return handled < most

    def _follow_changes(self) -> None:
        was_warned = bool(self._connection.warning)
        try:
            for connected in self._connection.changes():
                self._change(connected)
        except Denied as denied:
            self._say(str(denied))
            self._exit_code = EXIT_DENIED
        if self._connection.warning and not was_warned:
            self._notice_due_s = time.monotonic()

    def _is_orphaned(self) -> bool:
        if self._supervision.is_abandoned():
            return True
        starter_ended = self._supervision.shared.starter_ended or os.getppid() != self._parent
        return self._once and starter_ended

    def _change(self, connected: bool) -> None:
        now_s = time.monotonic()
        if not self._connected and not connected:
            # Of an attempt that failed: there was nothing to lose.
            return
        if not connected:
            self._say(f"lost the connection to {self._address}")
        if self._once and self._session is not None and not connected:
            self._exit_code = EXIT_DONE
        if self._session is not None:
            self._waiting_since_s = now_s
        self._connected, self._session, self._hello_sent = connected, None, False
        self._held.clear()
        self._hello_due_s = now_s if connected else math.inf
        self._notice_due_s = now_s + (_ANSWER_TIMEOUT_S if connected else _CONNECT_PATIENCE_S)

    def _send_what_is_due(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._hello_due_s:
            self._hello_due_s = now_s + _ANSWER_TIMEOUT_S
            self._hello_sent = self._connection.send(self._hello)
            if not self._hello_sent:
                self._hello_due_s = now_s + _SHORTEST_DELAY_S
        if self._session is None and now_s >= self._notice_due_s:
            self._notice_due_s = now_s + _NOTICE_INTERVAL_S
            if self._connected:
                self._say(f"no answer from the learner at {self._address} yet; still waiting")
            else:
                self._say(f"waiting for a learner at {self._address}{self._connection.warning}")

    def _idle_s(self) -> float:
        due_s = self._hello_due_s
        if self._session is None:
            due_s = min(due_s, self._notice_due_s, self._waiting_since_s + self._wait_s)
        for group in self._held:
            due_s = min(due_s, self._groups.ready_s(group))
        supervised = self._supervision.supervisor is not None
        longest_s = _PARENT_CHECK_INTERVAL_S if self._once or supervised else _NOTICE_INTERVAL_S
        longest_s = min(longest_s, self._supervision.step_timer.interval_s)
        return min(max(due_s - time.monotonic(), 0.0) + 0.001, longest_s)

    def _handle(self, frames: list[Frame]) -> None:
        message = decode(frames)
        match message:
            case Actions():
                self._advance(message)
            case Welcome():
                self._begin(message)
            case Refusal():
                self._refused(message)
            case Goodbye() if self._session is None or message.session == self._session.number:
                self._say(f"the learner says goodbye: {printable(message.reason)}")
                self._forget_session()
                if self._once:
                    self._exit_code = EXIT_DONE
            case Ping():
                # It has done its work by arriving.
                return
            case _:
                self.dropped_messages += 1

    def _advance(self, message: Actions) -> None:
        if self._session is None or not self._session.awaits(message):
            self.dropped_messages += 1
            return
        if self._groups.ready_s(message.group) > time.monotonic():
            # Rows of environments that are all down would go round as fast as the network can.
            self._held[message.group] = message
            return
        try:
            step = self._session.advance(message)
        except WireError as error:
            # The learner waits for this group's next row, which cannot be: no quiet way on.
            self._start_over(f"the learner sent actions that cannot be taken: {error}")
            return
        # The learner works with this session, so the next trouble is a new one.
        self._failed_sessions, self._last_refusal = 0, ""
        self._send_faults(self._groups.take_faults(message.group))
        if self._exit_code is None:
            self._send_step(step)

    def _advance_held(self) -> None:
        now_s = time.monotonic()
        for group in [group for group in self._held if self._groups.ready_s(group) <= now_s]:
            # A step before may have ended the session.
            message = self._held.pop(group, None)
            if message is not None and self._exit_code is None:
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
        self._session, self._hello_sent, self._hello_due_s = session, False, math.inf
        self._held.clear()
        self._say(f"running {self._hello.num_envs} environments for {self._address}")
        self._send_faults([*self._groups.lasting_faults(), *self._groups.take_all_faults()])
        for step in steps if self._exit_code is None else ():
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
            self._forget_session()

    def _refused(self, refusal: Refusal) -> None:
        if refusal.session and (self._session is None or refusal.session != self._session.number):
            # It answers a message of a session that this side has left already.
            self.dropped_messages += 1
            return
        if not refusal.retry:
            self._say(f"refused by the learner: {printable(refusal.reason)}")
            self._exit_code = EXIT_REFUSED
            return
        if self._session is None and not self._hello_sent:
            # Each group's STEP gets an answer when a session has ended: one is enough.
            self.dropped_messages += 1
            return
        if refusal.reason != self._last_refusal:
            self._last_refusal = refusal.reason
            self._say(f"the learner asks for another attempt: {printable(refusal.reason)}")
        self._forget_session()

    def _start_over(self, reason: str) -> None:
        """Leaves the session, if there is one, for a new one with new histories."""
        self._say(reason)
        if self._session is not None:
            self._connection.send(Goodbye(self._session.number, reason))
            self._forget_session()

    def _forget_session(self) -> None:
        """Ends the session on this side and says HELLO again, later each time it does not help."""
        now_s = time.monotonic()
        if self._session is not None:
            self._waiting_since_s = now_s
        self._session, self._hello_sent = None, False
        self._held.clear()
        delay_s = doubled_s(self._failed_sessions, _SHORTEST_DELAY_S, _LONGEST_DELAY_S)
        self._hello_due_s = now_s + delay_s * jitter()
        self._failed_sessions += 1
        self._notice_due_s = now_s + _NOTICE_INTERVAL_S

    def _leave(self, exit_code: int, reason: str, session: int | None = None) -> None:
        if session is None and self._session is not None:
            session = self._session.number
        if session is not None:
            self._connection.send(Goodbye(session, reason))
        self._exit_code = exit_code


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
