"""Freed memory and the collector, as a process sets them."""

from __future__ import annotations

import gc

import pytest

from seed.process.tuning import freeze_gc, keep_freed_memory


def test_the_collector_leaves_alone_what_exists() -> None:
    before = gc.get_freeze_count()
    try:
        freeze_gc()
        assert gc.get_freeze_count() > before + 10_000
    finally:
        gc.unfreeze()


def test_without_glibc_freed_memory_goes_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    keep_freed_memory()


def test_a_glibc_that_refuses_an_option_gets_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Refusing:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            asked.append(option)
            return 0

    monkeypatch.setattr("ctypes.CDLL", lambda name: Refusing)
    keep_freed_memory()
    assert len(asked) == 1
