"""Environments that do to their process what real ones do, and worse."""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import locale
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

DEEDS: dict[str, Callable[[], object]] = {}


class Doer(gymnasium.Env[Any, Any]):
    """Does nothing further; `close` is what a test asks for."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, close: Callable[[], object] = lambda: None) -> None:
        self._close = close

    def close(self) -> None:
        self._close()


def deed(function: Callable[[], object]) -> Callable[[], object]:
    """Registers it under its name."""
    DEEDS[function.__name__] = function
    return function


def make(deed: str) -> Doer:
    """An environment that does a deed while it is made."""
    DEEDS[deed]()
    return Doer()


def make_closing(deed: str) -> Doer:
    """An environment that does a deed when it is closed."""
    return Doer(DEEDS[deed])


def make_with_helpers(file: str, *, waits: bool = False) -> Doer:
    """One that starts processes and writes down who they are; `waits`: it is never done."""
    sleeps = [sys.executable, "-c", "import time; time.sleep(1000)"]
    pids = [os.getpid(), subprocess.Popen(sleeps).pid]
    pids.append(subprocess.Popen(sleeps, start_new_session=True).pid)
    # One whose parent is gone, as a daemon's.
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, str(subprocess.Popen(sleeps, start_new_session=True).pid).encode())
        os._exit(0)
    pids.append(int(os.read(reader, 20)))
    # One that does not end when asked to.
    pids.append(os.fork())
    if not pids[-1]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    temporary = Path(file + ".tmp")
    temporary.write_text(" ".join(map(str, pids)))
    temporary.rename(file)
    if waits:
        time.sleep(1000)
    return Doer()


@deed
def nothing() -> None:
    pass


@deed
def take_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


@deed
def change_folder() -> None:
    os.chdir("/")


@deed
def set_variables() -> None:
    os.environ.clear()
    os.environ["SDL_VIDEODRIVER"] = "dummy"


@deed
def print_much() -> None:
    print("hello from the simulator")
    print("a warning of it", file=sys.stderr)
    # Below Python, as a library in C does.
    os.write(1, b"x" * 300_000)
    os.write(2, b"y" * 300_000)


@deed
def replace_streams() -> None:
    sys.stdout = sys.stderr = sys.stdin = None


@deed
def close_streams() -> None:
    for descriptor in range(3):
        os.close(descriptor)


@deed
def read_input() -> None:
    assert sys.stdin.read() == ""


@deed
def start_threads() -> None:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


@deed
def change_numpy() -> None:
    np.random.seed(3)
    np.seterr(all="raise")
    np.set_printoptions(precision=1)


@deed
def change_torch() -> None:
    import torch

    torch.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True)


@deed
def change_python() -> None:
    random.seed(3)
    sys.setrecursionlimit(123)
    sys.path.clear()
    warnings.simplefilter("error")
    logging.disable()
    logging.basicConfig(level=1, force=True)
    locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
    sys.setswitchinterval(0.5)
    atexit.register(os._exit, 7)
    faulthandler.disable()


@deed
def change_process() -> None:
    os.umask(0o777)
    os.nice(3)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))


@deed
def end_its_group() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
        os.killpg(0, number)


@deed
def end_its_parent() -> None:
    os.kill(os.getppid(), signal.SIGTERM)


@deed
def fork_and_return_twice() -> None:
    os.fork()


@deed
def raise_something() -> None:
    raise AttributeError("no viewer\nyet")


@deed
def hang() -> None:
    time.sleep(1000)


@deed
def leave() -> None:
    print("no licence:\x1b[31m stopping")
    os._exit(3)


@deed
def leave_politely() -> None:
    sys.exit("no licence")


@deed
def crash() -> None:
    print("about to read a null pointer")
    ctypes.string_at(0)


@deed
def run_out_of_memory() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
