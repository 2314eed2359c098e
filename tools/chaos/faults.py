"""The kinds of injected faults: what each does to a training, and how it ends."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tools.chaos.proxy import End, Link
from tools.chaos.training import Server, Training

_MESSAGES_INJECTED = 8
_CHUNKS_CORRUPTED = 3


@dataclass
class Fault:
    """One injected fault; no FAULT, which is an environment's own.

    Attributes:
        kind: A key of `KINDS`.
        servers: Environment servers whose environments it keeps from training.
        duration_s: How long it is to last.
        began_s: Since the training's start, as the others.
        ended_s: When nothing was in the way any more; None while something is.
        recovered_s: When every environment had given a whole unroll made after `ended_s`, or None.
    """

    kind: str
    servers: tuple[int, ...]
    duration_s: float
    began_s: float
    ended_s: float | None = None
    recovered_s: float | None = None

    @property
    def time_to_recover_s(self) -> float | None:
        """From its end to the recovery; None where one of the two has not come."""
        if self.ended_s is None or self.recovered_s is None:
            return None
        return self.recovered_s - self.ended_s


Act = Callable[[Training, Server, random.Random], None]


@dataclass(frozen=True)
class Kind:
    """A kind of injected fault.

    Attributes:
        text: What happens, for `--help`.
        begin: Makes it happen.
        end: Ends it after its duration; None where it is over at once.
        all_servers: Whether it keeps all environment servers from training.
    """

    text: str
    begin: Act
    end: Act | None = None
    all_servers: bool = False


def _to_server(number: signal.Signals) -> Act:
    """Sends the victim a signal."""
    return lambda training, server, chance: training.signal(server.process, number)


def _to_learner(number: signal.Signals) -> Act:
    """Sends the learner a signal."""
    return lambda training, server, chance: training.signal(training.learner, number)


def _on_link(act: Callable[[Link], None]) -> Act:
    """Does something to the victim's link."""
    return lambda training, server, chance: training.call(partial(act, server.link))


def _slow_down(training: Training, server: Server, chance: random.Random) -> None:
    delay_s = chance.uniform(0.02, 0.2)
    training.call(partial(server.link.delay, delay_s))


def _corrupt(training: Training, server: Server, chance: random.Random) -> None:
    sender: End = "server" if chance.random() < 0.5 else "learner"
    chunks, place = chance.randint(1, _CHUNKS_CORRUPTED), chance.random()
    training.call(partial(server.link.corrupt, sender, chunks, place))


def _end_corruption(link: Link) -> None:
    link.corrupt("server", 0, 0.0)
    link.corrupt("learner", 0, 0.0)
    link.cut()


def _replay(training: Training, server: Server, chance: random.Random) -> None:
    """Old messages of this environment server's link and of another one's."""
    other = chance.choice(training.servers)
    for link in (server.link, other.link):
        old: list[bytes] = training.call(partial(list, link.recorded))
        chosen = chance.sample(old, min(len(old), _MESSAGES_INJECTED))
        training.call(partial(server.link.inject, chosen))


KINDS: dict[str, Kind] = {
    "kill-envserver": Kind(
        "an environment server is killed, and started anew", _to_server(signal.SIGKILL)
    ),
    "kill-learner": Kind(
        "the learner is killed, and started anew from its checkpoint",
        lambda training, server, chance: training.kill_learner(), all_servers=True,
    ),
    "stop-envserver": Kind(
        "an environment server stands still", _to_server(signal.SIGSTOP),
        _to_server(signal.SIGCONT),
    ),
    "stop-learner": Kind(
        "the learner stands still", _to_learner(signal.SIGSTOP), _to_learner(signal.SIGCONT),
        all_servers=True,
    ),
    "partition": Kind(
        "nothing passes a link, in either direction", _on_link(lambda link: link.hold()),
        _on_link(lambda link: link.release()),
    ),
    "cut": Kind("a link's connection is closed at both ends", _on_link(lambda link: link.cut())),
    "lose-learner": Kind(
        "the learner's end of a connection is gone; the environment server is not told",
        _on_link(lambda link: link.half_open("server")),
    ),
    "lose-envserver": Kind(
        "the environment server's end of a connection is gone; the learner is not told",
        _on_link(lambda link: link.half_open("learner")),
    ),
    "slow": Kind("a link takes 20 to 200 ms for every chunk", _slow_down,
                 _on_link(lambda link: link.delay(0.0))),
    "corrupt": Kind(
        "bits are flipped in up to 3 chunks, and then the connection breaks", _corrupt,
        _on_link(_end_corruption),
    ),
    "replay": Kind("old messages of this link and of another arrive once more", _replay),
}  # fmt: skip
