"""What ends a run: its last frame, a signal, a failure, or a thread that stalls.

All is a run's own but the work of its threads, which a test gives.
"""

from __future__ import annotations

import faulthandler
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from seed.inference.loop import Inference
from seed.learner.divergence import Diverged
from seed.learner.loop import Progress
from seed.process.signals import Signals
from seed.run import supervise
from seed.run.build import ProgressCounter
from seed.run.local_servers import LocalServerError, LocalServers
from seed.run.lock import RunTaken, hold_run
from seed.run.metrics import MetricsWindow, Writer
from seed.transport.authentication import Authentication
from seed.wire.keys import KeyPair, write_pair
from tests.seed.configs import make_config
from tests.seed.conftest import Build

pytestmark = pytest.mark.usefixtures("process_state")
PATIENCE_S = 300.0
Learn = Callable[["Ending", threading.Event], object]


class Ending:
    """A run with work of its threads that ends as a test says."""

    def __init__(self, build: Build, run_dir: Path, learn: Learn, **changes: Any) -> None:
        config = make_config(
            run_dir=str(run_dir), total_env_frames=100, local_envservers=0,
            environment={"frames_per_step": 4}, **changes,
        )  # fmt: skip
        self.farewells: list[str] = []
        self.signals = Signals()
        self.signals.began()
        self.servers = LocalServers([], 0)
        self.run = build(config)
        self.run.counter = ProgressCounter(Progress(5, 0, 60.0), self.run.inference)
        self.inference = cast(Any, self.run.inference)
        self.learner = cast(Any, self.run.learner)
        self.inference.run = self.serve
        self.learner.run = lambda stop: learn(self, stop)

    def serve(self, stop: threading.Event, farewell: Callable[[], str]) -> None:
        stop.wait(PATIENCE_S)
        self.farewells.append(farewell())

    def complete(self) -> None:
        """As after the last checkpoint of a run, and a step more."""
        self.inference.env_steps = 21
        self.learner.ended_at = Progress(25, 0, 70.0)

    def supervise(self) -> list[dict[str, Any]]:
        """Lets the run go on to its end; returns its lines of metrics."""
        supervise.supervise(self.run, self.signals, self.servers)
        return self.lines()

    def lines(self) -> list[dict[str, Any]]:
        text = (Path(self.run.config.run_dir) / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def complete(ending: Ending, stop: threading.Event) -> None:
    ending.complete()


def diverge(ending: Ending, stop: threading.Event) -> None:
    raise Diverged("the loss is nan")


def ask_to_stop(ending: Ending, stop: threading.Event) -> None:
    ending.signals.stop_requested = True
    assert stop.wait(PATIENCE_S)


def complete_after_a_signal(ending: Ending, stop: threading.Event) -> None:
    ask_to_stop(ending, stop)
    ending.complete()


@pytest.mark.parametrize(
    ("learn", "farewell", "error", "says_that_it_stops"),
    [
        (complete, "the training is complete", None, False),
        (diverge, "the learner failed", Diverged, False),
        (ask_to_stop, "the learner was stopped", None, True),
        (complete_after_a_signal, "the training is complete", None, True),
    ],
)
def test_a_run_ends_with_its_reason_and_a_last_line(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture, learn: Learn, farewell: str,
    error: type[Exception] | None, says_that_it_stops: bool,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    ending = Ending(build, tmp_path / "run", learn)
    if learn is complete_after_a_signal:
        # Else it says goodbye before the last checkpoint is there.
        ending.inference.run = lambda stop, farewell: None
    if error is None:
        ending.supervise()
        assert caplog.messages[-1].startswith(f"{farewell} after ")
    else:
        with pytest.raises(error, match="the loss is nan"):
            ending.supervise()
    assert ending.farewells in ([farewell], [])
    assert len(ending.lines()) == 1
    said = "stopping; a checkpoint is being written" in caplog.messages
    assert said == says_that_it_stops


def test_a_run_without_a_terminal_says_in_its_log_how_it_begins_and_goes_on(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def learn(ending: Ending, stop: threading.Event) -> None:
        # As on a machine that takes long to make environments.
        while "making environments" not in caplog.messages:
            assert not stop.wait(0.01)
        ending.complete()

    starts: list[int] = []

    def open_writer(run_dir: Path, start_frames: int = 0) -> Writer:
        starts.append(start_frames)
        return Writer(run_dir, start_frames)

    monkeypatch.setattr(supervise, "Writer", open_writer)
    ending = Ending(build, tmp_path / "run", learn)
    monkeypatch.setattr(Inference, "num_envs", 8)
    caplog.clear()
    caplog.set_level("INFO")
    (last,) = ending.supervise()
    beginning, line, end = caplog.messages
    assert beginning == "making environments"
    assert line.startswith("100 frames (100%), ")
    assert end == "the training is complete after 100 frames"
    # The five steps of earlier processes count, and TensorBoard learns of them.
    assert (last["env_steps"], last["env_frames"]) == (25, 100)
    assert last["time_s"] >= 60
    assert starts == [20]


def test_servers_that_keep_failing_stop_the_run(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*, connected: bool) -> None:
        raise LocalServerError("no such game")

    ending = Ending(build, tmp_path / "run", lambda ending, stop: stop.wait(PATIENCE_S))
    monkeypatch.setattr(ending.servers, "check", fail)
    with pytest.raises(LocalServerError, match="no such game"):
        ending.supervise()
    assert ending.farewells == ["the learner failed"]


@pytest.mark.parametrize(
    ("silent", "asked"), [("learner", False), ("learner", True), ("authentication", False)]
)
def test_a_thread_that_stalls_is_given_up_even_while_it_is_to_end(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str, asked: bool
) -> None:
    released, reasons, stopped = threading.Event(), list[str](), list[float]()
    run_authentication = Authentication.run

    def give_up(reason: str, clean_up: Callable[[], None]) -> None:
        reasons.append(reason)
        clean_up()
        ending.signals.stop_requested = True
        released.set()

    def learn(ending: Ending, stop: threading.Event) -> None:
        ending.signals.stop_requested = asked
        while not released.wait(0.01):
            if silent != "learner":
                ending.learner.phases.heartbeat()

    def read_keys(self: Authentication, stop: threading.Event) -> None:
        self.phases.enter("refreshing")
        released.wait(PATIENCE_S)
        run_authentication(self, stop)

    keys: dict[str, Any] = {}
    if silent == "authentication":
        secret, _ = write_pair(tmp_path / "learner", KeyPair.new())
        keys = {"secret_key": str(secret), "allowed_keys": str(tmp_path)}
        monkeypatch.setattr(Authentication, "run", read_keys)
    monkeypatch.setattr(supervise, "exit_with_stacks", give_up)
    # Its timer would end this process, were it only slow.
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)
    ending = Ending(build, tmp_path / "run", learn, watchdog_s=1.0, inference=keys)
    # Inference would be silent, too.
    ending.inference.run = lambda stop, farewell: None
    monkeypatch.setattr(ending.servers, "stop", stopped.append)
    ending.supervise()
    assert reasons[0].startswith(f"the {silent} thread has made no sign of life for 1 s (watchdog")
    assert stopped[0] == 0.0


# Steps since the checkpoint at the end are played again: a line of them would be set aside.
@pytest.mark.parametrize(
    ("ended", "line_at"),
    [
        (Progress(17, 0, 70.0), Progress(17, 0, 70.0)), (None, Progress(25, 0, 61.0)),
        (Progress(3, 0, 70.0), Progress(25, 0, 61.0)),
        # Time never goes back.
        (Progress(17, 0, 59.0), Progress(17, 0, 60.0)),
    ],
)  # fmt: skip
def test_the_last_line_is_where_the_next_process_goes_on(
    ended: Progress | None, line_at: Progress
) -> None:
    run: Any = SimpleNamespace(
        learner=SimpleNamespace(ended_at=ended), progress=lambda: Progress(25, 0, 61.0)
    )
    window = MetricsWindow(1, Progress(5, 0, 60.0))
    assert supervise._last_progress(run, window) == line_at


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_LOOK_EVERY_S", 0.0)


def test_a_run_whose_folder_vanishes_goes_on_in_a_new_one(
    build: Build, tmp_path: Path, looks_often: None, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir, forgotten = tmp_path / "run", threading.Event()

    def learn(ending: Ending, stop: threading.Event) -> None:
        ending.learner.forget_checkpoints = forgotten.set
        # At once: else TensorBoard's thread may begin a file in what is being deleted.
        run_dir.rename(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone")
        assert forgotten.wait(PATIENCE_S)

    assert len(Ending(build, run_dir, learn).supervise()) == 1
    assert caplog.text.count(f"{run_dir} was deleted or moved; it is made anew") == 1
    assert (run_dir / "config.toml").exists()


def test_a_run_whose_folder_is_anothers_by_now_ends_and_writes_nothing(
    build: Build, tmp_path: Path, looks_often: None
) -> None:
    def learn(ending: Ending, stop: threading.Event) -> None:
        # At once, as this learner would be quicker otherwise.
        (tmp_path / "other" / "lock").replace(tmp_path / "run" / "lock")
        assert stop.wait(PATIENCE_S)

    ending = Ending(build, tmp_path / "run", learn)
    with (
        hold_run(tmp_path / "other"),
        pytest.raises(RunTaken, match="another learner works there now"),
    ):
        ending.supervise()
    assert ending.lines() == []
    assert ending.farewells == ["the learner failed"]
