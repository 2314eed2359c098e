"""The main thread's work while a run goes on: watches all others, and writes the metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from seed.learner.loop import Progress
from seed.process.phases import Phases
from seed.process.signals import Signals
from seed.process.threads import ThreadGroup
from seed.process.watchdog import Watchdog, exit_with_stacks
from seed.run.build import Run
from seed.run.display import Display, tell
from seed.run.hints import Beginning
from seed.run.local_servers import LocalServers, server_count
from seed.run.lock import RunTaken
from seed.run.metrics import MetricsWindow, Writer

log = logging.getLogger(__name__)

_TICK_S = 0.1
# How long two learners may be in one folder that was deleted or moved.
_LOOK_EVERY_S = 1.0


def supervise(run: Run, signals: Signals, servers: LocalServers) -> None:
    """Runs the threads until the learner is done or a signal comes; writes the metrics."""
    config = run.config
    threads = ThreadGroup()
    window = MetricsWindow(
        config.environment.frames_per_env_step, run.progress(), lockstep=run.lockstep
    )
    with contextlib.suppress(OSError):
        run.hold_folder()
    writer = Writer(Path(config.run_dir), run.env_frames())
    display = Display(config.total_env_frames, run.env_frames())
    beginning = Beginning(config, run.inference.endpoint, server_count(config), tell)

    def farewell() -> str:
        if run.learner.complete:
            return "the training is complete"
        return "the learner was stopped" if signals.stop_requested else "the learner failed"

    def log_line(progress: Progress) -> None:
        line = window.close(progress, run.inference, run.learner, run.store)
        try:
            run.hold_folder()
            writer.write(line)
        except (RunTaken, OSError) as error:
            log.error("a line of metrics is lost: %s", error)
        display.update(line)

    learning, watched = _start_threads(run, threads, farewell)
    watchdog = Watchdog(
        config.watchdog_s,
        watched,
        partial(exit_with_stacks, clean_up=lambda: servers.stop(0.0)),
    )
    next_line_s = time.monotonic() + config.log_interval_s
    next_look_s = 0.0
    try:
        while learning.is_alive() and not threads.stop.is_set() and not signals.stop_requested:
            learning.join(_TICK_S)
            watchdog.check()
            servers.check(connected=run.inference.num_envs > 0)
            beginning.check(run.inference.num_envs, run.inference.env_steps)
            if time.monotonic() >= next_look_s:
                next_look_s = time.monotonic() + _LOOK_EVERY_S
                # What cannot be seen now may be seen later; until then nothing is saved.
                with contextlib.suppress(OSError):
                    run.hold_folder()
            if time.monotonic() >= next_line_s:
                next_line_s += config.log_interval_s
                log_line(run.progress())
        if signals.stop_requested and not run.learner.complete:
            log.info("stopping; a checkpoint is being written")
    finally:
        try:
            threads.join(watchdog.check)
        finally:
            watchdog.close()
            log_line(_last_progress(run, window))
            display.close()
            writer.close()
    frames = window.last.env_steps * config.environment.frames_per_env_step
    log.info("%s after %s frames", farewell(), f"{frames:,}")


def _start_threads(
    run: Run, threads: ThreadGroup, farewell: Callable[[], str]
) -> tuple[threading.Thread, dict[threading.Thread, Phases]]:
    """The learner's thread, and what each thread that was started is at."""
    watched = {}
    authentication = run.inference.authentication
    if authentication is not None:
        thread = threads.start("authentication", lambda: authentication.run(threads.stop))
        watched[thread] = authentication.phases
    acting = threads.start("inference", lambda: run.inference.run(threads.stop, farewell))
    learning = threads.start("learner", lambda: run.learner.run(threads.stop))
    return learning, watched | {acting: run.inference.phases, learning: run.learner.phases}


def _last_progress(run: Run, window: MetricsWindow) -> Progress:
    """As far as the checkpoint at the end: steps since then are played again by the next process.

    Where there is none, or lines have gone beyond it, as far as the run has come.
    """
    ended, last = run.learner.ended_at, window.last
    if ended is None or ended.env_steps < last.env_steps:
        return run.progress()
    # A line may have been due between the checkpoint's last step and its being written.
    return dataclasses.replace(ended, time_s=max(ended.time_s, last.time_s))
