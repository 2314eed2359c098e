"""How much memory a device has left."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_GPU_RESERVE_BYTES = 4 * 2**30
_MEMORY = Path("/proc/meminfo")
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
