"""Devices by name, and what a thread is given before it computes."""

from __future__ import annotations

import threading

import pytest
import torch

from seed.config.schema import ConfigError
from seed.device.graphs import capture_lock
from seed.device.names import prepare_thread, resolve_device


@pytest.mark.parametrize(
    ("name", "has_gpu", "expected"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu")],
)
def test_auto_is_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, name: str, has_gpu: bool, expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    assert resolve_device(name, "learner.device") == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:x"])
def test_a_device_that_is_not_here_is_named_with_its_field(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve_device(name, "inference.device")
    message = str(refused.value)
    assert message.startswith(f"inference.device = {name!r}: no such device here (")
    assert "\n" not in message


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
