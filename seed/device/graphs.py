"""CUDA graphs: the same work over the same memory, launched at once instead of kernel by kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

from seed.config.schema import ConfigError
from seed.process.threads import Consequence

T = TypeVar("T")

# Libraries choose their kernels and reserve their memory in the first calls, which cannot be
# captured; so do optimizers with their state.
_WARM_UP_CALLS = 3


class CaptureLock:
    """Any number of threads compute, or one captures; after a capture that failed, nobody.

    A capture changes what is one in a process: the device's random number generator serves the
    capture alone, and waiting for the whole device is an error meanwhile, in whichever thread. All
    else that other threads do on streams of their own goes on. A capture that failed leaves the
    process's random numbers in it: whoever comes later would fail with a message that misleads.
    """

    def __init__(self) -> None:
        """Free."""
        self._changed = threading.Condition()
        self._computing = 0
        self._capturing = False
        self._failed = False

    @contextmanager
    def compute(self) -> Iterator[None]:
        """For drawing random numbers on a GPU, and for waiting for all of it.

        Raises:
            Consequence: where another thread's capture has failed.
        """
        with self._changed:
            self._wait_for_captures()
            self._computing += 1
        try:
            yield
        finally:
            with self._changed:
                self._computing -= 1
                self._changed.notify_all()

    @contextmanager
    def capture(self) -> Iterator[None]:
        """For capturing: waits until nobody computes, and keeps everybody from it.

        Raises:
            Consequence: where another thread's capture has failed.
        """
        with self._changed:
            self._wait_for_captures()
            # First of all, so that threads that compute all the time let this one in.
            self._capturing = True
            self._changed.wait_for(lambda: self._computing == 0)
        self._failed = True
        try:
            yield
            self._failed = False
        finally:
            with self._changed:
                self._capturing = False
                self._changed.notify_all()

    def _wait_for_captures(self) -> None:
        """Waits for the capture that is going on, with `_changed` held."""
        self._changed.wait_for(lambda: not self._capturing)
        if self._failed:
            raise Consequence("another thread's capture has failed")


capture_lock = CaptureLock()


class CapturedCall(Generic[T]):
    """A function without arguments that reads and writes the same tensors at every call.

    On a CPU, and without `capture`, a call is a call. On a GPU with `capture` the first three are
    too; at the fourth the function is captured, and from then on its kernels are replayed while
    none of its Python runs. What it returned while being captured is what every later call returns:
    the same tensors, which the next call overwrites.

    The calling thread is always the same, has a stream of its own
    (`seed.device.names.prepare_thread`) and holds no `capture_lock`.
    """

    def __init__(
        self, function: Callable[[], T], device: torch.device, *, capture: bool, field: str
    ) -> None:
        """Nothing is called yet.

        Args:
            function: Does not read a value back to the host, and its shapes and what it does are
                the same at every call.
            device: Where it computes.
            capture: Whether to capture on a GPU.
            field: The configuration field that says so, for messages.
        """
        self._function = function
        self._device = device
        self._field = field
        self._captures = capture and can_capture(device)
        self._calls = 0
        self._replay: Callable[[], T] | None = None

    @property
    def captures(self) -> bool:
        """Whether calls are, or will be, replayed: what the function reads must stay in place."""
        return self._captures

    def __call__(self) -> T:
        """One call's work.

        Raises:
            ConfigError: where the function cannot be captured. There is no going on after that: a
                capture that failed leaves the memory and random numbers of the process in it.
        """
        if not can_capture(self._device):
            return self._function()
        self._calls += 1
        if self._captures and self._calls > _WARM_UP_CALLS and self._replay is None:
            with capture_lock.capture():
                self._replay = _capture(self._function, self._device, self._field)
        with capture_lock.compute():
            return self._replay() if self._replay is not None else self._function()


def can_capture(device: torch.device) -> bool:
    """Whether there are graphs on this kind of device."""
    return device.type == "cuda"


def _capture(function: Callable[[], T], device: torch.device, field: str) -> Callable[[], T]:
    """What runs the function's kernels and returns its result; none of them has run yet."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream(device)
    try:
        # The other thread goes on using the GPU: only this one's calls can break the capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = function()
    except RuntimeError as error:
        # Ending a broken capture fails too, and hides what broke it.
        reason = str(error.__context__ or error).partition("\n")[0]
        raise ConfigError(
            f"{field} = true: the algorithm's work cannot be captured ({reason}); it must not read "
            f"values back from the GPU. Set {field} = false"
        ) from error

    def replay() -> T:
        graph.replay()
        return result

    return replay
