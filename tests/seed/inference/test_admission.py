"""Who is listened to: allowed keys, and connections that do not send too much rubbish."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed.inference.admission import Admission
from seed.transport.authentication import AllowList
from seed.wire.keys import KeyPair, write_pair


def test_without_keys_everybody_is_heard() -> None:
    admission = Admission(None)
    assert admission.is_allowed("")
    assert admission.admits(b"anyone", "")
    assert admission.name_of("") == ""
    assert admission.messages_dropped == 0


def test_a_revoked_key_is_not_heard(tmp_path: Path) -> None:
    pair = KeyPair.new()
    _, public = write_pair(tmp_path / "worker", pair)
    allowed = AllowList(tmp_path)
    admission = Admission(allowed)
    assert admission.admits(b"a", pair.public)
    assert admission.name_of(pair.public) == "worker"
    assert not admission.admits(b"a", KeyPair.new().public)
    assert not admission.admits(b"a", "")
    public.unlink()
    allowed.refresh()
    assert not admission.admits(b"a", pair.public)
    assert not admission.is_allowed(pair.public)
    assert admission.messages_dropped == 3


# A session that ends costs a server a refusal for each of its 64 groups.
def test_an_honest_server_is_not_muted() -> None:
    admission = Admission(None)
    assert not any(admission.refuse(b"a", "say HELLO again", 0.0) for _ in range(64))
    assert not any(admission.refuse(b"a", "say HELLO again", 1.0) for _ in range(64))
    assert not any(admission.refuse(b"a", "no room", float(second)) for second in range(2, 100))
    assert admission.admits(b"a", "")


def test_a_flood_is_muted_for_a_while_and_alone() -> None:
    admission = Admission(None)
    refusals = [admission.refuse(b"a", "rubbish", 0.0) for _ in range(200)]
    assert refusals == [False] * 128 + [True] * 72
    assert not admission.admits(b"a", "")
    assert admission.admits(b"b", "")
    admission.expire(4.9)
    assert not admission.admits(b"a", "")
    admission.expire(5.1)
    assert admission.admits(b"a", "")
    assert (admission.messages_refused, admission.messages_dropped) == (200, 2)
    # It has hardly earned any credit in the meantime.
    assert [admission.refuse(b"a", "rubbish", 5.1) for _ in range(60)][-1]


def test_some_messages_mute_at_once() -> None:
    admission = Admission(None)
    assert admission.refuse(b"a", "endless", 0.0, mute=True)
    assert not admission.admits(b"a", "")


# They come from strangers, and a terminal would obey them.
def test_no_control_character_comes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Admission(None).refuse(b"a", "\x1b[2J" + "x" * 5000, 0.0)
    text = caplog.records[0].getMessage()
    assert text.isprintable()
    assert len(text) < 300


def test_connections_of_long_ago_are_forgotten() -> None:
    admission = Admission(None)
    for number in range(20_000):
        admission.refuse(b"%d" % number, "rubbish", 0.0)
    admission.expire(0.0)
    assert len(admission._limits) == 10_000
    for _ in range(200):
        admission.refuse(b"a", "rubbish", 1.0)
    admission.expire(2.0)
    assert set(admission._limits) == {b"a"}
    admission.expire(100.0)
    assert not admission._limits
    assert not admission._muted
