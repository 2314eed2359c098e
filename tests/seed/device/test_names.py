"""Devices by name, and what a thread is given before it computes."""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seed.config.schema import ConfigError
from seed.device.graphs import capture_lock
from seed.device.names import (
    available_bytes,
    freeze_gc,
    keep_freed_memory,
    overwrite,
    prepare_thread,
    resolve_device,
)


@pytest.mark.parametrize(("has_gpu", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    assert resolve_device("auto", "learner.device") == torch.device(expected)


def test_a_name_is_that_device() -> None:
    assert resolve_device("cpu", "learner.device") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:x"])
def test_a_device_that_is_not_here_is_named_with_its_field(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve_device(name, "inference.device")
    message = str(refused.value)
    assert message.startswith(f"inference.device = {name!r}: no such device here (")
    assert "\n" not in message


def set_memory(
    monkeypatch: pytest.MonkeyPatch, folder: Path, memory: str | None, files: dict[str, str]
) -> None:
    """The machine's /proc/meminfo, and files of the container in its /sys/fs/cgroup."""
    monkeypatch.setattr("seed.device.names._MEMORY", folder / "meminfo")
    monkeypatch.setattr("seed.device.names._CONTAINER", folder / "cgroup")
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
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    memory: str | None,
    limit: str | None,
    expected: int,
) -> None:
    set_memory(monkeypatch, tmp_path, memory, {} if limit is None else {"memory.max": limit})
    assert available_bytes(torch.device("cpu")) == expected


V2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
V1 = (
    "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
    "total_inactive_file",
)  # fmt: skip


@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
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
    assert available_bytes(torch.device("cpu")) == expected


def test_this_machine_has_memory_left() -> None:
    assert available_bytes(torch.device("cpu")) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_memory_left_of_a_gpu_is_its_own() -> None:
    device = torch.device("cuda")
    assert 0 < available_bytes(device) <= torch.cuda.get_device_properties(device).total_memory


def test_the_number_of_threads_is_each_threads_own() -> None:
    counts: dict[int, int] = {}
    both_set = threading.Barrier(2)

    def count(threads: int) -> None:
        prepare_thread(torch.device("cpu"), threads, urgent=True)
        both_set.wait()
        counts[threads] = torch.get_num_threads()

    threads = [threading.Thread(target=count, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {1: 1, 2: 2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_urgent_threads_have_a_stream_of_higher_priority() -> None:
    device, priorities = torch.device("cuda"), []

    def prepare(urgent: bool) -> None:
        prepare_thread(device, 1, urgent=urgent)
        stream = torch.cuda.current_stream(device)
        assert stream != torch.cuda.default_stream(device)
        priorities.append(stream.priority)

    for urgent in (True, False):
        thread = threading.Thread(target=prepare, args=(urgent,))
        thread.start()
        thread.join()
    assert priorities[0] < priorities[1]


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


def test_a_gpu_keeps_memory_for_networks_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for free_gib, available_gib in ((60, 56), (6, 3), (1, 0.5)):
        free = free_gib * 2**30
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device, free=free: (free, 0))
        assert available_bytes(torch.device("cuda")) == available_gib * 2**30


@dataclass
class Inner:
    named: dict[str, Tensor]


@dataclass
class Outer:
    inner: Inner
    count: int
    values: Tensor


def make_outer(value: int, count: int = 3) -> Outer:
    named = {"a": torch.full((2,), value), "b": torch.full((), value + 1)}
    return Outer(Inner(named), count, torch.full((2, 2), float(value)))


def test_overwriting_reaches_every_tensor_and_keeps_its_place() -> None:
    old, new = make_outer(1), make_outer(5)
    tensors = [*old.inner.named.values(), old.values]
    overwrite(old, new)
    assert [tensor.flatten()[0].item() for tensor in tensors] == [5, 6, 5]
    assert all(tensor is kept for tensor, kept in zip(
        tensors, [*old.inner.named.values(), old.values], strict=True
    ))  # fmt: skip
    # Copies: what was copied from may be written again.
    new.values.zero_()
    assert old.values[0, 0].item() == 5


def test_overwriting_refuses_another_form() -> None:
    with pytest.raises(ValueError, match="shorter"):
        overwrite({"a": torch.zeros(2), "b": torch.zeros(2)}, {"a": torch.ones(2)})
    # Which copying alone would repeat.
    with pytest.raises(ValueError, match=r"of shape \[1\], expected \[2\]"):
        overwrite(torch.zeros(2), torch.ones(1))


def test_no_thread_waits_for_the_gpu_while_another_captures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computing = []
    device = torch.device("cuda")
    monkeypatch.setattr(
        "torch.cuda.synchronize", lambda device: computing.append(capture_lock._computing)
    )
    monkeypatch.setattr("torch.cuda.Stream", lambda device, priority: None)
    monkeypatch.setattr("torch.cuda.set_stream", lambda stream: None)
    prepare_thread(device, 1, urgent=False)
    assert computing == [1]
