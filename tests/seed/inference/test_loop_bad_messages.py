"""Messages that cannot be used, and too many of them, on real sockets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seed.inference import admission as admission
from seed.inference import loop as inference
from seed.wire import codec, messages
from tests.seed.central import central
from tests.waiting import wait_for


def step_frames(**changes: Any) -> list[messages.Frame]:
    """A STEP's frames for one environment, some of them replaced."""
    frames: dict[str, messages.Frame] = {
        "run_ids": bytes(8), "observations": bytes(8), "rewards": bytes(4), "flags": bytes(1),
        "episodes": b"",
    }  # fmt: skip
    return list({**frames, **changes}.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"run_ids": bytes(7)},
        {"observations": bytes(16)},
        {"observations": b""},
        {"rewards": np.float32(np.nan).tobytes()},
        {"rewards": np.float32(np.inf).tobytes()},
        {"flags": b"\x08"},
        {"episodes": bytes(15)},
        {"episodes": bytes(32)},
        {"episodes": np.array([(1, 1, 1.0)], messages.EPISODE_DTYPE).tobytes()},
        {"extra": b""},
    ],
    ids=str,
)
def test_a_malformed_step_is_refused_and_nothing_else(changes: dict[str, bytes]) -> None:
    with central() as served:
        dealer, other = served.connect(), served.connect()
        dealer.hello(1)
        other.hello(1, server_id=2)
        dealer.send(messages.Step(dealer.session, 0, 0, step_frames(**changes)))
        refusal = dealer.refusal()
        assert refusal.reason.startswith("malformed message")
        assert not refusal.retry
        # A message with a wrong count of frames is not read as far as its session.
        assert refusal.session == (0 if "extra" in changes else dealer.session)
        dealer.step(0, [1])
        assert dealer.actions(0) == [1]
        other.step(0, [2])
        assert other.actions(0) == [2]
        assert served.inference.messages_refused == 1


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b"", b""],
        [b"\xc1"],
        [b"\x80" * 5000],
        [b"\x93\x01\x02\x03"],
        [b"\x81\xa4type\xa5hello"],
        [b"\x81\xa4type\x90"],
        [b"\x81\xa4type\xa4\xff\xff\xff\xff"],
        [b"\x91" * 4000],
        [b""] * 8,
        codec.encode(messages.Actions(1, 0, 0, b"")),
        codec.encode(messages.Ping(1)),
        codec.encode(messages.Refusal("no", retry=True)),
        codec.encode(messages.Hello(1, (0,), "nobody")),
        codec.encode(messages.Hello(1, (), "nobody")),
        codec.encode(messages.Step(1, 0, 0, [])),
    ],
    ids=range(16),
)
def test_the_loop_lives_on_after_a_malformed_message(frames: list[bytes]) -> None:
    with central() as served:
        dealer = served.connect()
        dealer.socket.send_multipart(frames)
        assert dealer.refusal().reason.startswith("malformed message")
        dealer.hello(1)
        dealer.step(0, [1])
        assert dealer.actions(0) == [1]


def test_a_connection_is_not_heard_for_a_while_after_an_endless_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inference, "_HOUSEKEEPING_S", 0.01)
    monkeypatch.setattr(admission, "_MUTE_S", 3600.0)
    with central() as served:
        endless, other = served.connect(), served.connect()
        endless.hello(2)
        other.hello(1, server_id=2)
        endless.socket.send_multipart([b""] * 30_000)
        assert endless.refusal().reason.startswith("malformed message")
        # Its steps would be lost, so it has no session either.
        assert isinstance(endless.receive(), messages.Goodbye)
        wait_for(lambda: served.inference.num_envs == 1)
        endless.send(messages.Hello(1, (1,), "too soon"))
        for seq in range(3):
            other.step(seq, [1])
            assert other.actions(seq) == [seq + 1]
        assert not endless.socket.poll(0)
        muted = served.inference._admission

        def is_heard_again() -> bool:
            """Once its time is over: it is set to zero for the next housekeeping."""
            muted._muted = dict.fromkeys(muted._muted, 0.0)
            return not muted._muted

        wait_for(is_heard_again)
        endless.hello(2)


def test_a_flood_of_messages_that_are_refused_ends_a_session() -> None:
    with central(refusals_at_once=128) as served:
        dealer = served.connect()
        dealer.hello(2)
        for _ in range(200):
            dealer.send(messages.Ping(1))
        wait_for(lambda: served.inference._admission.messages_dropped > 0)
        # One of the 128 was the HELLO.
        answers = [dealer.receive() for _ in range(129)]
        assert isinstance(answers[-1], messages.Goodbye)
        assert all(isinstance(answer, messages.Refusal) for answer in answers[:-1])
        wait_for(lambda: served.inference.num_envs == 0)


def test_a_group_that_was_not_agreed_is_refused() -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(1, 1)
        for group in (2, 2**64 - 1):
            dealer.step(0, [1], group=group)
            assert "group: expected below 2" in dealer.refusal().reason


def test_a_flood_of_hellos_mutes_its_connection() -> None:
    with central(refusals_at_once=128) as served:
        dealer = served.connect()

        def is_refused() -> bool:
            dealer.send(messages.Hello(1, (1,), "flood"))
            message = dealer.receive()
            return isinstance(message, messages.Refusal) and "too often" in message.reason

        # As many as a server with all its groups may send at once, and those that come meanwhile.
        assert next(count for count in range(1_000) if is_refused()) >= 128
        wait_for(lambda: served.inference.num_envs == 0)
        served.connect().hello(6, server_id=2)
