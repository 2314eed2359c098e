"""Freed memory and the collector, as a process sets them."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from seed.process.tuning import freeze_gc, keep_freed_memory


def test_the_collector_leaves_alone_what_exists() -> None:
    before = gc.get_freeze_count()
    try:
        freeze_gc()
        assert gc.get_freeze_count() > before + 10_000
    finally:
        gc.unfreeze()


def test_memory_goes_where_it_goes_where_the_c_library_does_not_know_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library: Any = object()
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    keep_freed_memory()
    asked: list[int] = []

    class Refusing:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            asked.append(option)
            return 0

    library = Refusing
    keep_freed_memory()
    # None is set where the first is refused.
    assert len(asked) == 1
