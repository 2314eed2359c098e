"""`seed-learner` with a fault in it: `FAULT CONFIG [overrides]`."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from seed import __main__

_UPDATES_BEFORE = 20


def _stall(sleep: Callable[[int], object]) -> None:
    print("stalling", flush=True)
    sleep(3600)


def stall_learner() -> None:
    """Its thread waits for ever, others go on."""
    _after_some_updates(lambda result: _stall(time.sleep))


def hold_interpreter() -> None:
    """Its thread calls C code that never returns and lets no other thread run."""
    _after_some_updates(lambda result: _stall(ctypes.PyDLL(None).sleep))


def poison_losses() -> None:
    """After some updates every loss is NaN."""
    _after_some_updates(lambda result: result.scalars.update(loss=float("nan")))


def _after_some_updates(act: Callable[[Any], None]) -> None:
    from seed.learner.update import Update

    backward, updates = Update.backward, 0

    def backward_and_act(update: Update) -> object:
        nonlocal updates
        updates += 1
        result = backward(update)
        if updates > _UPDATES_BEFORE:
            act(result)
        return result

    Update.backward = backward_and_act  # type: ignore[assignment, method-assign]


def sync_slowly() -> None:
    """Every file takes half a second to reach the disk."""
    sync = os.fsync

    def sync_later(descriptor: int) -> None:
        time.sleep(0.5)
        sync(descriptor)

    os.fsync = sync_later  # type: ignore[assignment]


def sync_never() -> None:
    """No file ever reaches the disk."""
    os.fsync = lambda descriptor: time.sleep(3600)  # type: ignore[assignment]


def step_wall_clock() -> None:
    """The wall clock is stepped every half second, by up to an hour either way."""
    monotonic, now = time.monotonic, time.time

    def stepped() -> float:
        return now() + 3600.0 * (int(2 * monotonic()) % 3 - 1)

    time.time = stepped
    time.time_ns = lambda: int(1e9 * stepped())


def end_authentication() -> None:
    """Its thread raises once it is asked to; what takes place then takes a few seconds."""
    from seed.inference.loop import Inference

    say_goodbye = Inference._say_goodbye

    def say_goodbye_later(inference: Inference, reason: str) -> None:
        # The socket is open all the time, and nobody answers who may connect.
        time.sleep(3.0)
        say_goodbye(inference, reason)

    def fail() -> None:
        raise RuntimeError("the authentication thread fell over")

    Inference._say_goodbye = say_goodbye_later  # type: ignore[assignment, method-assign]
    _once_asked(fail)


def stall_authentication() -> None:
    """Its thread waits for ever once it is asked to."""
    _once_asked(lambda: time.sleep(3600))


def _once_asked(fail: Callable[[], None]) -> None:
    """Fails where the allow-list is refreshed and there is a file "fail" beside the keys."""
    from seed.transport.authentication import AllowList

    refresh = AllowList.refresh

    def refresh_or_fail(allowed: AllowList, now_s: float) -> None:
        if (allowed._folder / "fail").exists():
            print("failing", flush=True)
            fail()
        refresh(allowed, now_s)

    AllowList.refresh = refresh_or_fail  # type: ignore[assignment, method-assign]


FAULTS = {
    function.__name__.replace("_", "-"): function
    for function in (
        stall_learner, hold_interpreter, sync_slowly, sync_never, step_wall_clock, poison_losses,
        end_authentication, stall_authentication,
    )
}  # fmt: skip

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    sys.exit(__main__.learner())
