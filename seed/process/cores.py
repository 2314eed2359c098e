"""How many cores this process may use: by its affinity and by its container's quota."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
# Where version 1 of control groups has the CPU's, by distribution.
_CPU_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def usable_cores() -> int:
    """Cores for processes with steady work; a share of one counts as one."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0))
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """What this process's control group and those above it are given, in cores."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            for folder in _upwards(_MOUNT, path):
                yield from _quota(_read(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for mount in _CPU_MOUNTS:
                for folder in _upwards(_MOUNT / mount, path):
                    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                    yield from _quota(" ".join(_read(folder / name) for name in names))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it; a container may have the last of them only."""
    folder = mount / path.strip("/")
    while folder != mount:
        yield folder
        folder = folder.parent
    yield mount


def _quota(text: str) -> Iterator[float]:
    """Quota through period, where both are numbers and the quota is one."""
    words = text.split()
    if len(words) == 2 and all(word.isdecimal() and int(word) > 0 for word in words):
        yield int(words[0]) / int(words[1])


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
