from __future__ import annotations

import threading

import pytest

from envservers.environments import closing
from envservers.environments.closing import close_failed


def test_what_closes_is_not_spoken_of() -> None:
    closed = []
    assert close_failed(lambda: closed.append(1)) == ""
    assert closed == [1]


def test_what_raises_when_it_is_closed_is_not_spoken_of() -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert close_failed(leave) == ""


def test_what_never_closes_is_left_behind_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_PATIENCE_S", 0.01)
    never = threading.Event()
    assert "did not return within 0.01 s and was left behind" in close_failed(never.wait)
    # A whole group of them would be waited for in turn.
    monkeypatch.setattr(closing, "_IMPATIENCE_S", 0.02)
    assert "within 0.02 s" in close_failed(never.wait)
    never.set()
    for thread in closing._left_behind:
        thread.join()
    assert close_failed(lambda: None) == ""
    assert not closing._left_behind
