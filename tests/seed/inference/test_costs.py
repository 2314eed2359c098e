"""What the way from the socket to the store costs, counted instead of timed.

The bounds are the counts of the day when they were written (Python 3.11, NumPy 2.4, torch 2.13,
pyzmq 27), plus a tenth at most; `python -m pytest tests/seed/inference/test_costs.py -s` prints
today's. Raise one only for something that is worth it, and say what.
"""

from __future__ import annotations

import itertools
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seed.config.schema import InferenceConfig
from seed.contract import Algorithm
from seed.inference.forward import ForwardPass
from seed.inference.loop import Inference
from seed.inference.sessions import Offer
from seed.store.layout import Column, StoreLayout
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.wire import codec, messages
from seed.wire.spaces import SpaceSpec
from tests.seed.central import Dealer
from tools.bench import null_algorithm

GROUP, GROUPS = 32, 8
BATCH = GROUP * GROUPS
OBSERVATION, ACTION = SpaceSpec("uint8", (84, 84)), SpaceSpec("int64", (), 4)
TURNS = 13
NUMBERS = itertools.count()


class Meter(Protocol):
    """Counts what is done between `start` and `stop`, any number of times."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Calls:
    """Calls of functions written in Python, and of others that Python makes."""

    def __init__(self) -> None:
        self.python = self.others = 0

    def start(self) -> None:
        sys.setprofile(self.note)

    def stop(self) -> None:
        sys.setprofile(None)

    def note(self, frame: Any, event: str, argument: Any) -> None:
        self.python += event == "call"
        self.others += event == "c_call"


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Torch's operators, and the bytes of those results that are in new memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.new_bytes = 0

    def start(self) -> None:
        self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += 1
        given = [v for v in (*args, *(kwargs or {}).values()) if isinstance(v, Tensor)]
        memory = {value.untyped_storage().data_ptr() for value in given}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in memory:
            self.new_bytes += result.nbytes
        return result


class Memory:
    """The most that Python and NumPy held at a time, beyond what they had before."""

    def __init__(self) -> None:
        self.most_bytes = self.before_bytes = 0

    def start(self) -> None:
        self.before_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

    def stop(self) -> None:
        grown_bytes = tracemalloc.get_traced_memory()[1] - self.before_bytes
        self.most_bytes = max(self.most_bytes, grown_bytes)


class Watched:
    """Observations of a message; counts how often their rows are read, which copies of them do.

    NumPy asks what is no array of its own for one, each time that it copies it.
    """

    def __init__(self, observations: npt.NDArray[Any], reads: list[int]) -> None:
        self._observations, self._reads = observations, reads

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        self._reads.append(len(self._observations))
        return self._observations


class Turns:
    """Stands for the event that stops the loop; between the loop's turns, messages come and go.

    All of a turn's messages are there when it begins, so the batches are always the same. The
    first two turns meet each piece of code for the first time and are not measured.
    """

    def __init__(self, dealer: Dealer, meter: Meter) -> None:
        self.dealer, self.meter = dealer, meter
        self.turn, self.measuring = 0, False
        shape = (GROUP, *OBSERVATION.shape)
        self.observations = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)

    def stop(self) -> None:
        if self.measuring:
            self.measuring = False
            self.meter.stop()

    def is_set(self) -> bool:
        self.stop()
        if self.turn == 0:
            self.dealer.send(messages.Hello(1, (GROUP,) * GROUPS, "test"))
        elif self.turn == 1:
            welcome = self.dealer.receive()
            assert isinstance(welcome, messages.Welcome)
            self.dealer.session = welcome.session
        for group in range(GROUPS * (self.turn > 0)):
            if self.turn > 1:
                assert self.dealer.actions(self.turn - 2, group) == [0] * GROUP
            if self.turn < TURNS + 2:
                self.dealer.step_arrays(self.turn - 1, self.observations, group=group)
        self.turn += 1
        if 2 < self.turn <= TURNS + 2:
            self.measuring = True
            self.meter.start()
        return self.turn > TURNS + 2


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loop runs in the test's own thread, and waits for nobody's last words."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("seed.inference.loop._FAREWELL_MS", 0)
    # Else a slow machine would have more of it in each turn.
    monkeypatch.setattr("seed.inference.loop._HOUSEKEEPING_S", 1e9)
    yield
    torch.set_num_threads(threads)


def exchange(meter: Meter, frame_stack: int = 1) -> Inference:
    """TURNS batches, each of a message of GROUP rows from each of GROUPS groups."""
    address = f"inproc://costs-{next(NUMBERS)}"
    config = InferenceConfig(address=address, max_envs=BATCH, max_batch=BATCH)
    layout = StoreLayout(
        unroll_length=20, num_pages=3 * BATCH, max_envs=BATCH,
        frame_stack=frame_stack, state_size=0,
        observations={"": Column(OBSERVATION.shape, torch.uint8)}, action=Column((), torch.int64),
        behaviour={},
    )  # fmt: skip
    store = UnrollStore(layout, torch.device("cpu"))
    algorithm = cast(Algorithm, null_algorithm)
    agent = null_algorithm.NullAgent(ACTION)
    forward = ForwardPass(algorithm, null_algorithm.Config(), agent, store, BATCH)
    offer = Offer({"kind": "function"}, OBSERVATION, ACTION, seed=(1,))
    inference = Inference(
        config, offer, forward, store, WeightSlot(), queue_limit=BATCH, publish=store.publish
    )
    dealer = Dealer(inference.endpoint)
    turns = Turns(dealer, meter)
    try:
        inference.run(cast(threading.Event, turns), lambda: "the end")
    finally:
        turns.stop()
        dealer.socket.close()
    assert inference.env_steps == (TURNS + 1) * BATCH
    assert inference.records.qsize() == TURNS + 1
    return inference


# Some 50 of Python for each message. A loop over rows would add 256 to either number, or more.
def test_python_calls(one_thread: None) -> None:
    calls = Calls()
    exchange(calls)
    python, others = calls.python / TURNS, calls.others / TURNS
    print(f"calls per batch of {GROUPS} messages: {python:.1f} of Python, {others:.1f} others")
    assert python <= 505  # 464
    assert others <= 625  # 580


# Observations go from the message into the store and from there to the agent, always to the same
# memory.
def test_torch_operators_and_the_memory_that_they_take(one_thread: None) -> None:
    operators = Operators()
    exchange(operators)
    print(f"torch operators per batch: {operators.count / TURNS:.1f}")
    assert operators.count / TURNS <= 53  # 49, most of them in calls of `Tensor.numpy`
    ratio = operators.new_bytes / (TURNS * BATCH * OBSERVATION.nbytes)
    print(f"bytes in new tensors: {ratio:.4f} of the observations")
    assert ratio <= 0.0013  # 0.0011


def test_python_copies_no_observations(one_thread: None) -> None:
    memory = Memory()
    tracemalloc.start()
    try:
        exchange(memory)
    finally:
        tracemalloc.stop()
    ratio = memory.most_bytes / (BATCH * OBSERVATION.nbytes)
    print(f"Python's and NumPy's memory: {ratio:.4f} of a batch's observations")
    assert ratio <= 0.0145  # 0.0134


# A store on the CPU gets them from the messages themselves: only what the agent sees has room.
def test_observations_are_not_staged(one_thread: None) -> None:
    inference = exchange(Calls())
    memory: dict[int, int] = {}
    # The store's columns, where they belong, are in dictionaries.
    parts = (inference, inference._forward, inference._forward._buffers, inference._store)
    for owner in parts:
        for value in vars(owner).values():
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Tensor):
                    storage = part.untyped_storage()
                    memory[storage.data_ptr()] = storage.nbytes()
                elif isinstance(part, np.ndarray):
                    memory[part.ctypes.data] = part.nbytes
    held_bytes = sum(memory.values()) / BATCH
    print(f"buffers: {held_bytes:.1f} bytes a row")
    assert OBSERVATION.nbytes + 64 <= held_bytes <= OBSERVATION.nbytes + 88  # + 82


# Into the store, and to the agent unless that gets stacks from there.
@pytest.mark.parametrize(("frame_stack", "copies"), [(1, 2), (4, 1)])
def test_copies_out_of_messages(
    one_thread: None, monkeypatch: pytest.MonkeyPatch, frame_stack: int, copies: int
) -> None:
    reads: list[int] = []
    check = codec.check_step

    def watched(*arguments: Any) -> messages.StepArrays:
        arrays = check(*arguments)
        return arrays._replace(observations=cast(Any, Watched(arrays.observations, reads)))

    monkeypatch.setattr(codec, "check_step", watched)
    exchange(Calls(), frame_stack)
    assert sum(reads) == copies * (TURNS + 1) * BATCH


def test_bytes_on_the_wire() -> None:
    observations = np.zeros((GROUP, *OBSERVATION.shape), np.uint8)
    arrays = messages.StepArrays(
        np.ones(GROUP, np.uint64), observations, np.zeros(GROUP, np.float32),
        np.zeros(GROUP, np.uint8), np.empty(0, messages.EPISODE_DTYPE),
    )  # fmt: skip
    step = codec.encode(messages.Step(2**63 - 1, 7, 10**9, codec.step_frames(arrays)))
    actions = codec.encode(messages.Actions(2**63 - 1, 7, 10**9, bytes(8 * GROUP)))
    # ZeroMQ puts at most 9 bytes before each frame.
    sent_bytes = sum(memoryview(frame).nbytes + 9 for frame in (*step, *actions))
    assert sent_bytes <= 1.02 * GROUP * OBSERVATION.nbytes
