"""What a process sets once, so that the C library and Python's collector stay out of its way."""

from __future__ import annotations

import ctypes
import gc

# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: nothing is large enough to be given back. M_ARENA_MAX: one
# arena for all threads, as those of single threads are given back whatever their size.
_MALLOC_OPTIONS = ((-3, 2**30), (-1, 2**31 - 1), (-8, 1))


def keep_freed_memory() -> None:
    """Keeps what large tensors free for the next ones; to be called before there are threads.

    The C library gives it back to the system, and every update pays for it anew, page by page: more
    than half of a large update on a CPU (`docs/performance.md`). Does nothing where the library is
    not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC_OPTIONS:
            # An old glibc refuses the first; with the second alone every large block is given back.
            if not mallopt(option, value):
                return


def freeze_gc() -> None:
    """Keeps Python's garbage collector from going through what exists by now, ever again.

    That takes 85 ms with torch loaded, in which no thread runs Python. To be called when a process
    has what it needs for the rest of its life.
    """
    gc.collect()
    gc.freeze()
