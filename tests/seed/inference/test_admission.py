"""Who is listened to: allowed keys, and connections that do not send too much rubbish."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed.inference.admission import Reception
from seed.transport.authentication import AllowList
from seed.wire.keys import KeyPair, write_pair


def test_without_keys_everybody_is_heard() -> None:
    reception = Reception(None)
    assert reception.is_allowed("")
    assert reception.admits(b"anyone", "")
    assert reception.name_of("") == ""
    assert reception.messages_dropped == 0


def test_a_revoked_key_is_not_heard(tmp_path: Path) -> None:
    pair = KeyPair.new()
    _, public = write_pair(tmp_path / "worker", pair)
    allowed = AllowList(tmp_path)
    reception = Reception(allowed)
    assert reception.admits(b"a", pair.public)
    assert reception.name_of(pair.public) == "worker"
    assert not reception.admits(b"a", KeyPair.new().public)
    assert not reception.admits(b"a", "")
    public.unlink()
    allowed.refresh()
    assert not reception.admits(b"a", pair.public)
    assert not reception.is_allowed(pair.public)
    assert reception.messages_dropped == 3


# A session that ends costs a server a refusal for each of its 64 groups.
def test_an_honest_server_is_not_muted() -> None:
    reception = Reception(None)
    assert not any(reception.refuse(b"a", "say HELLO again", 0.0) for _ in range(64))
    assert not any(reception.refuse(b"a", "say HELLO again", 1.0) for _ in range(64))
    assert not any(reception.refuse(b"a", "no room", float(second)) for second in range(2, 100))
    assert reception.admits(b"a", "")


def test_a_flood_is_muted_for_a_while_and_alone() -> None:
    reception = Reception(None)
    refusals = [reception.refuse(b"a", "rubbish", 0.0) for _ in range(200)]
    assert refusals == [False] * 128 + [True] * 72
    assert not reception.admits(b"a", "")
    assert reception.admits(b"b", "")
    reception.keep_house(4.9)
    assert not reception.admits(b"a", "")
    reception.keep_house(5.1)
    assert reception.admits(b"a", "")
    assert (reception.messages_refused, reception.messages_dropped) == (200, 2)
    # It has hardly earned any credit in the meantime.
    assert [reception.refuse(b"a", "rubbish", 5.1) for _ in range(60)][-1]


def test_some_messages_mute_at_once() -> None:
    reception = Reception(None)
    assert reception.refuse(b"a", "endless", 0.0, mute=True)
    assert not reception.admits(b"a", "")


# They come from strangers, and a terminal would obey them.
def test_no_control_character_comes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Reception(None).refuse(b"a", "\x1b[2J" + "x" * 5000, 0.0)
    text = caplog.records[0].getMessage()
    assert text.isprintable()
    assert len(text) < 300


def test_connections_of_long_ago_are_forgotten() -> None:
    reception = Reception(None)
    for number in range(20_000):
        reception.refuse(b"%d" % number, "rubbish", 0.0)
    reception.keep_house(0.0)
    assert len(reception._limits) == 10_000
    for _ in range(200):
        reception.refuse(b"a", "rubbish", 1.0)
    reception.keep_house(2.0)
    assert set(reception._limits) == {b"a"}
    reception.keep_house(100.0)
    assert not reception._limits
    assert not reception._muted
