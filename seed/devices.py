"""Devices by name, and what a thread must set before it computes on one."""

from __future__ import annotations

import torch

from seed.config import ConfigError


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
        torch.cuda.synchronize(device)
        stream = torch.cuda.Stream(device, priority=-1 if urgent else 0)  # type: ignore[no-untyped-call]
        torch.cuda.set_stream(stream)
