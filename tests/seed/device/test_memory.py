"""The memory left is the machine's or the container's, or the GPU's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from seed.device.memory import available_bytes

CPU = torch.device("cpu")


def set_memory(
    monkeypatch: pytest.MonkeyPatch, folder: Path, memory: str | None, files: dict[str, str]
) -> None:
    """The machine's /proc/meminfo, and files of the container in its /sys/fs/cgroup."""
    monkeypatch.setattr("seed.device.memory._MEMORY", folder / "meminfo")
    monkeypatch.setattr("seed.device.memory._CONTAINER", folder / "cgroup")
    if memory is not None:
        (folder / "meminfo").write_text(memory)
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)


@pytest.mark.parametrize(
    ("memory", "limit", "expected"),
    [
        ("MemTotal: 900 kB\nMemFree: 10 kB\nMemAvailable: 500 kB\n", None, 500 * 1024),
        ("MemAvailable: 500 kB\n", "max\n", 500 * 1024),
        ("MemAvailable: 500 kB\n", "400000\n", 400_000),
        ("MemAvailable: 500 kB\n", "600000\n", 500 * 1024),
        (None, "400000\n", 400_000),
        ("MemTotal: 900 kB\n", "max\n", sys.maxsize),
        (None, None, sys.maxsize),
    ],
)
def test_the_memory_left_is_the_machines_or_the_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: str | None, limit: str | None,
    expected: int,
) -> None:  # fmt: skip
    assert available_bytes(CPU) > 0
    set_memory(monkeypatch, tmp_path, memory, {} if limit is None else {"memory.max": limit})
    assert available_bytes(CPU) == expected


@pytest.mark.parametrize(
    "version",
    [("memory.max", "memory.current", "memory.stat", "inactive_file"),
     ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
      "total_inactive_file")],
    ids=["v2", "v1"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("limit", "used", "cache", "expected"),
    [
        ("400000\n", "300000\n", 0, 100_000),
        # Files that were read some time ago give way.
        ("400000\n", "300000\n", 250_000, 350_000),
        # Of a limit that was lowered there may be less than nothing left.
        ("400000\n", "450000\n", 20_000, 0),
        ("max\n", "300000\n", 0, 500 * 1024),
        # As version 1 says "max".
        ("9223372036854771712\n", "300000\n", 0, 500 * 1024),
        ("800000\n", "100000\n", 0, 500 * 1024),
    ],
)
def test_what_a_container_uses_is_not_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: tuple[str, str, str, str],
    limit: str, used: str, cache: int, expected: int,
) -> None:  # fmt: skip
    counts = f"anon 7\nfile 9\n{version[3]} {cache}\nactive_file 5\n"
    files = dict(zip(version[:3], (limit, used, counts), strict=True))
    set_memory(monkeypatch, tmp_path, "MemAvailable: 500 kB\n", files)
    assert available_bytes(CPU) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_memory_left_of_a_gpu_is_its_own() -> None:
    device = torch.device("cuda")
    assert 0 < available_bytes(device) <= torch.cuda.get_device_properties(device).total_memory


def test_a_gpu_keeps_memory_for_networks_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for free_gib, available_gib in ((60, 56), (6, 3), (1, 0.5)):
        free = free_gib * 2**30
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device, free=free: (free, 0))
        assert available_bytes(torch.device("cuda")) == available_gib * 2**30
