"""Functions that are called, and functions that are captured: on a GPU, or as if there were one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from seed.config.schema import ConfigError
from seed.device import graphs
from seed.device.graphs import CapturedCall, CaptureLock, can_capture
from seed.device.names import prepare_thread
from seed.process.threads import Consequence, ThreadGroup
from tests.seed.gpu_streams import own_stream
from tests.seed.recording import record_on_cpu
from tests.waiting import wait_for

CPU = torch.device("cpu")
DEVICES = [
    "recorded",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


@pytest.fixture(params=DEVICES)
def device(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[torch.device]:
    """A GPU, or a CPU that can capture."""
    if request.param == "recorded":
        record_on_cpu(monkeypatch)
        yield CPU
        return
    device = torch.device("cuda")
    with own_stream(device):
        yield device


class Adding:
    """Adds its input to a sum at every call."""

    def __init__(self, device: torch.device) -> None:
        self.calls = 0
        self.input = torch.ones((), device=device)
        self.sum = torch.zeros((), device=device)

    def __call__(self) -> Tensor:
        self.calls += 1
        self.sum += self.input
        return self.sum * 10

    def graph(self, *, capture: bool = True) -> CapturedCall[Tensor]:
        return CapturedCall(self, self.input.device, capture=capture, field="a.field")


def test_on_a_cpu_a_call_is_a_call() -> None:
    call_and_call(Adding(CPU), capture=True)


def test_without_capture_a_call_is_a_call(device: torch.device) -> None:
    call_and_call(Adding(device), capture=False)


def call_and_call(adding: Adding, *, capture: bool) -> None:
    graph = adding.graph(capture=capture)
    assert not graph.captures
    assert [graph().item() for _ in range(6)] == [10, 20, 30, 40, 50, 60]
    assert adding.calls == 6


def test_every_call_does_the_work_once_on_the_same_tensors(device: torch.device) -> None:
    adding = Adding(device)
    graph = adding.graph()
    assert graph.captures
    assert [graph().item() for _ in range(7)] == [10, 20, 30, 40, 50, 60, 70]
    # Three to warm up, and the capture.
    assert adding.calls == 4
    # Replays read what is in the tensors now, and return the same ones.
    adding.input.fill_(5.0)
    assert graph().item() == 120
    adding.sum.zero_()
    result = graph()
    assert result.item() == 50
    assert graph() is result
    assert result.item() == 100


def test_reading_a_value_back_cannot_be_captured(device: torch.device) -> None:
    value = torch.ones((), device=device)
    graph = CapturedCall(
        lambda: value * value.item(), device, capture=True, field="learner.cuda_graphs"
    )
    if device.type == "cuda":
        # What a broken capture leaves behind would spoil the tests that follow.
        pytest.skip("ends the process's use of the GPU")
    for _ in range(3):
        assert graph().item() == 1
    with pytest.raises(ConfigError, match=r"^learner.cuda_graphs = true: .* capturing"):
        graph()


def test_a_capture_waits_for_those_who_compute() -> None:
    lock, order = CaptureLock(), []

    def capture() -> None:
        with lock.capture():
            order.append("capture")

    thread = threading.Thread(target=capture)
    with lock.compute():
        thread.start()
        wait_for(lambda: lock._capturing)
        order.append("computed")
    thread.join()
    assert order == ["computed", "capture"]


def test_nobody_computes_or_captures_while_there_is_a_capture() -> None:
    lock, order = CaptureLock(), []
    started = threading.Barrier(3)

    def wait_and(use: Callable[[], AbstractContextManager[None]]) -> None:
        started.wait()
        with use():
            order.append("other")

    threads = [
        threading.Thread(target=wait_and, args=(use,)) for use in (lock.compute, lock.capture)
    ]
    with lock.capture():
        for thread in threads:
            thread.start()
        started.wait()
        order.append("captured")
    for thread in threads:
        thread.join()
    assert order == ["captured", "other", "other"]


def test_many_compute_at_a_time_and_a_failure_lets_the_others_go_on() -> None:
    lock, both = CaptureLock(), threading.Barrier(2)

    def compute() -> None:
        with lock.compute():
            both.wait(300)

    thread = threading.Thread(target=compute)
    thread.start()
    compute()
    thread.join()
    with pytest.raises(ValueError, match="failed"), lock.compute():
        raise ValueError("failed")
    for use in (lock.capture, lock.compute):
        with use():
            pass


def test_a_failed_capture_is_the_end_for_those_who_wait_and_those_who_come() -> None:
    lock, failures = CaptureLock(), []

    def compute() -> None:
        try:
            with lock.compute():
                pass
        except Consequence as error:
            failures.append(str(error))

    def capture() -> None:
        with lock.capture():
            thread.start()
            raise ValueError("failed")

    thread = threading.Thread(target=compute)
    with pytest.raises(ValueError, match="failed"):
        capture()
    thread.join()
    compute()
    with pytest.raises(Consequence), lock.capture():
        pass
    assert failures == ["another thread's capture has failed"] * 2


def test_the_reason_of_a_failed_capture_is_what_a_thread_group_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The learner's capture fails while inference waits for it; inference may be heard first."""
    record_on_cpu(monkeypatch)
    value, waits, threads = torch.ones(()), threading.Event(), ThreadGroup()
    failing = CapturedCall(
        lambda: value * value.item(), CPU, capture=True, field="learner.cuda_graphs"
    )
    other = CapturedCall(lambda: value + 1, CPU, capture=True, field="inference.cuda_graphs")

    def learn() -> None:
        try:
            while True:
                failing()
        finally:
            # Whoever waits for the lock has failed by now, and been heard.
            waits.set()
            acting.join()

    def act() -> None:
        waits.wait()
        other()

    acting = threads.start("inference", act)
    threads.start("learner", learn)
    with pytest.raises(ConfigError, match=r"^learner.cuda_graphs = true: "):
        threads.join()


def test_calls_hold_the_lock_of_all_graphs(device: torch.device) -> None:
    computing, capturing = [], []

    def look() -> Tensor:
        computing.append(graphs.capture_lock._computing)
        capturing.append(graphs.capture_lock._capturing)
        return torch.ones((), device=device) + 1

    graph = CapturedCall(look, device, capture=True, field="a.field")
    for _ in range(5):
        graph()
    assert computing == [1, 1, 1, 0]
    assert capturing == [False, False, False, True]
    lock = graphs.capture_lock
    assert (lock._computing, lock._capturing) == (0, False)


def test_only_gpus_capture() -> None:
    assert [can_capture(torch.device(name)) for name in ("cpu", "cuda", "cuda:1")] == [
        False, True, True,
    ]  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_another_thread_draws_and_allocates_while_there_are_captures() -> None:
    """The other thread does what inference does: random numbers, new memory, waiting."""
    device, stop, draws = torch.device("cuda"), threading.Event(), []
    sampling = CapturedCall(
        lambda: torch.empty(64, device=device).exponential_(), device, capture=False, field="other"
    )

    def sample() -> None:
        prepare_thread(device, 1, urgent=True)
        while not stop.is_set():
            draws.append(sampling().cpu())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        wait_for(lambda: len(draws) > 10)
        with own_stream(device):
            for _ in range(20):
                adding = Adding(device)
                graph = adding.graph()
                assert [graph().item() for _ in range(6)] == [10, 20, 30, 40, 50, 60]
    finally:
        stop.set()
        thread.join()
    assert len({draw[0].item() for draw in draws}) > len(draws) // 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_replay_draws_new_random_numbers() -> None:
    device = torch.device("cuda")
    graph = CapturedCall(
        lambda: torch.empty((), device=device).exponential_(), device, capture=True, field="a.field"
    )
    with own_stream(device):
        assert len({graph().item() for _ in range(20)}) == 20
