"""Devices by name, and what a thread must set before it computes on one."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from seed.config.schema import ConfigError
from seed.device.graphs import capture_lock

# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: nothing is large enough to be given back. M_ARENA_MAX: one
# arena for all threads, as those of single threads are given back whatever their size.
_MALLOC_OPTIONS = ((-3, 2**30), (-1, 2**31 - 1), (-8, 1))
_GPU_RESERVE_BYTES = 4 * 2**30
_MEMORY = Path("/proc/meminfo")
_CPU_FLAGS = Path("/proc/cpuinfo")
_CONTAINER = Path("/sys/fs/cgroup")
# Of both versions of cgroups: the limit, what is used, and what of that is cache that can go, by
# its name in the third file.
_CONTAINER_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
        "total_inactive_file",
    ),
)  # fmt: skip


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


def resolve_device(name: str, field: str) -> torch.device:
    """The device of a configuration field; "auto" is a GPU where there is one.

    Raises:
        ConfigError: where there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{field} = {name!r}: no such device here ({reason})") from None
    return device


def resolve_precision(
    precision: Literal["float32", "bfloat16", "auto"], device: torch.device
) -> Literal["float32", "bfloat16"]:
    """The precision of a configuration; "auto" is bfloat16 where the device has its instructions.

    Elsewhere bfloat16 works too, but is emulated and slower than float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = _CPU_FLAGS.exists() and "avx512_bf16" in _CPU_FLAGS.read_text().split()
    return "bfloat16" if native else "float32"


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be taken there: of this machine and container, or of the GPU.

    Of a GPU, something is left out for forward passes, libraries and their graphs. Where the
    system does not say (it is not Linux), that counts as no limit.
    """
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return max(free // 2, free - _GPU_RESERVE_BYTES)
    limits = [sys.maxsize]
    if _MEMORY.exists():
        lines = [line.split() for line in _MEMORY.read_text().splitlines()]
        limits += [1024 * int(size) for name, size, *_ in lines if name == "MemAvailable:"]
    return min(*limits, *(_left_in_container(*names) for names in _CONTAINER_FILES))


def _left_in_container(limit: str, used: str, stat: str, cache: str) -> int:
    """Bytes that this container may still take by its files of these names."""
    limit_text, used_text, stat_text = (
        path.read_text() if (path := _CONTAINER / name).exists() else ""
        for name in (limit, used, stat)
    )
    if not limit_text.strip().isdecimal():
        return sys.maxsize
    counts = dict(line.split() for line in stat_text.splitlines())
    return max(0, int(limit_text) - int(used_text or 0) + int(counts.get(cache, 0)))


def prepare_thread(device: torch.device, threads: int, *, urgent: bool) -> None:
    """Sets the calling thread's CPU threads and gives it a stream of its own on a GPU.

    Args:
        device: Where the thread computes.
        threads: CPU threads of one operation; torch keeps this number per calling thread.
        urgent: Whether the GPU prefers this stream's work to the other's.
    """
    # A thread takes the newest number set anywhere when torch first asks: ask before setting it.
    torch.get_num_threads()
    torch.set_num_threads(threads)
    if device.type == "cuda":
        # What was made before on the default stream must be complete for the new one.
        with capture_lock.compute():
            torch.cuda.synchronize(device)
        stream = torch.cuda.Stream(device, priority=-1 if urgent else 0)  # type: ignore[no-untyped-call]
        torch.cuda.set_stream(stream)


def move(value: Any, device: torch.device) -> Any:
    """The same dataclass or dictionary with its tensors on the device, and all else as it is."""
    if isinstance(value, Tensor):
        # Towards the CPU nothing would wait for the copy before it is read.
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {f.name: move(getattr(value, f.name), device) for f in dataclasses.fields(value)}
    return type(value)(**fields)


def overwrite(destination: Any, source: Any) -> None:
    """Copies the tensors of a dataclass or dictionary into those of another of the same form.

    Raises:
        ValueError: where there are more or fewer of them, or of other shapes.
    """
    for old, new in zip(_tensors(destination), _tensors(source), strict=True):
        if old.shape != new.shape:
            raise ValueError(f"a tensor of shape {list(new.shape)}, expected {list(old.shape)}")
        old.copy_(new, non_blocking=old.device.type == "cuda")


def _tensors(value: Any) -> list[Tensor]:
    """All tensors of a dataclass or dictionary, in the order of its fields."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        parts = list(value.values())
    elif dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        return []
    return [tensor for part in parts for tensor in _tensors(part)]
