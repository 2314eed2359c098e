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
    assert (admission.name_of(""), admission.messages_dropped) == ("", 0)


def test_only_allowed_keys_are_heard(tmp_path: Path) -> None:
    pair = KeyPair.new()
    write_pair(tmp_path / "worker", pair)
    admission = Admission(AllowList(tmp_path))
    assert admission.admits(b"a", pair.public)
    assert admission.name_of(pair.public) == "worker"
    for key in (KeyPair.new().public, ""):
        assert not admission.admits(b"a", key)
        assert not admission.is_allowed(key)
    assert admission.messages_dropped == 2


# A session that ends costs a server a refusal for each of its 64 groups.
def test_an_honest_server_is_not_muted() -> None:
    admission = Admission(None)
    assert not any(admission.refuse(b"a", "say HELLO again", 0.0) for _ in range(64))
    assert not any(admission.refuse(b"a", "say HELLO again", 1.0) for _ in range(64))
    assert not any(admission.refuse(b"a", "no room", float(second)) for second in range(2, 100))
    assert admission.admits(b"a", "")


@pytest.mark.parametrize(("refusals", "mute"), [(129, False), (1, True)])
def test_a_flood_is_muted_for_a_while_and_alone(refusals: int, mute: bool) -> None:
    admission = Admission(None)
    muted = [admission.refuse(b"a", "rubbish", 0.0, mute=mute) for _ in range(refusals)]
    assert muted == [False] * (refusals - 1) + [True]
    for now_s, heard in ((0.0, False), (4.9, False), (5.1, True)):
        admission.expire(now_s)
        assert admission.admits(b"a", "") is heard
        assert admission.admits(b"b", "")
    assert (admission.messages_refused, admission.messages_dropped) == (refusals, 2)
    # It has hardly earned any credit in the meantime.
    if not mute:
        assert [admission.refuse(b"a", "rubbish", 5.1) for _ in range(60)][-1]


def test_a_refused_message_is_told_in_short(caplog: pytest.LogCaptureFixture) -> None:
    Admission(None).refuse(b"a", "\x1b[2J" + "x" * 5000, 0.0)
    assert caplog.messages[0].startswith(r"refused a message: \x1b[2Jxxx")
    assert len(caplog.messages[0]) < 300


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
