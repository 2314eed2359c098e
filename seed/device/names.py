"""Devices and precisions by name, and what a thread must set before it computes on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from seed.config.schema import ConfigError
from seed.device.graphs import capture_lock

_CPU_FLAGS = Path("/proc/cpuinfo")


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
