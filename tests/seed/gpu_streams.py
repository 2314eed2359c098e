"""The stream that a thread of the learner has, for a test's own thread, and only for the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from seed.device.names import prepare_thread


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Computes on a stream of its own; what was made before on the default one is complete there.

    Afterwards the thread is on the stream that it was on, where all that was done is complete.
    """
    before, threads = torch.cuda.current_stream(device), torch.get_num_threads()
    prepare_thread(device, 1, urgent=False)
    try:
        yield
    finally:
        torch.cuda.synchronize(device)
        torch.cuda.set_stream(before)
        torch.set_num_threads(threads)
