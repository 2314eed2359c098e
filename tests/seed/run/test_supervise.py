"""What ends a run: its last frame, a signal, a failure, or a thread that stalls."""

from __future__ import annotations

import faulthandler
import json
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seed.config.schema import Config, EnvironmentConfig
from seed.inference.fault_log import FaultLog
from seed.learner.divergence import Diverged
from seed.learner.loop import Progress
from seed.process.phases import Phases
from seed.process.signals import SIGNALS, Signals
from seed.run import main, supervise
from seed.run.local_servers import LocalServerError
from seed.run.lock import RunTaken, hold_run
from seed.run.metrics import MetricsWindow
from seed.run.parts import Run


class Ending:
    """Parts of a run that end as a test says."""

    def __init__(self, run_dir: Path, learn: Callable[[threading.Event], None]) -> None:
        run_dir.mkdir()
        self.farewells: list[str] = []
        self.signals: Any = SimpleNamespace(stop_requested=False)
        self.check: Callable[[], None] = lambda: None
        self.servers: Any = SimpleNamespace(check=lambda connected: self.check())
        records: Any = SimpleNamespace(qsize=lambda: 0)
        inference: Any = SimpleNamespace(
            env_steps=0, records=records, num_envs=0, messages_refused=0, messages_dropped=0,
            paused_s=0.0, phases=Phases(), faults=FaultLog(), authentication=None, endpoint="tcp://x:1",
            run=self.serve,
        )  # fmt: skip
        self.inference = inference
        learner: Any = SimpleNamespace(
            learner_steps=0, records=records, phases=Phases(), run=learn,
            updates_skipped=0, checkpoints_failed=0, complete=False, ended_at=None,
        )  # fmt: skip
        store: Any = SimpleNamespace(num_ready=0, rows_dropped=0)
        config = Config(
            run_dir=str(run_dir), total_env_frames=100, algorithm=EnvironmentConfig(),
            environment=EnvironmentConfig(frames_per_step=4),
        )  # fmt: skip
        self.run = Run(config, store, self.inference, learner, Progress(env_steps=5, time_s=60.0))

    def serve(self, stop: threading.Event, farewell: Callable[[], str]) -> None:
        stop.wait(300)
        self.farewells.append(farewell())

    def complete(self) -> None:
        """As after the last checkpoint of a run."""
        learner: Any = self.run.learner
        learner.complete = True

    def supervise(self) -> None:
        supervise.supervise(self.run, self.signals, self.servers)

    def lines(self) -> list[dict[str, Any]]:
        text = (Path(self.run.config.run_dir) / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def test_a_complete_run_says_so_and_leaves_a_last_line(tmp_path: Path) -> None:
    def learn(stop: threading.Event) -> None:
        ending.inference.env_steps = 20
        ending.complete()

    ending = Ending(tmp_path / "run", learn)
    ending.supervise()
    assert ending.farewells == ["the training is complete"]
    (line,) = ending.lines()
    # Earlier processes of the run count, too.
    assert (line["env_steps"], line["env_frames"]) == (25, 100)
    assert line["time_s"] >= 60


def test_a_run_without_a_terminal_says_in_its_log_how_it_begins_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def learn(stop: threading.Event) -> None:
        # As on a machine that takes long to make environments.
        while "making environments" not in caplog.messages:
            assert not stop.wait(0.01)
        ending.inference.env_steps = 20
        ending.complete()

    ending = Ending(tmp_path / "run", learn)
    ending.inference.num_envs = 8
    ending.supervise()
    beginning, line, end = caplog.messages
    assert beginning == "making environments"
    assert line.startswith("100 frames (100%), ")
    assert end == "the training is complete after 100 frames"


def test_a_failed_learner_ends_the_run_with_its_error(tmp_path: Path) -> None:
    def learn(stop: threading.Event) -> None:
        raise Diverged("the loss is nan")

    ending = Ending(tmp_path / "run", learn)
    with pytest.raises(Diverged, match="the loss is nan"):
        ending.supervise()
    assert ending.farewells == ["the learner failed"]
    assert len(ending.lines()) == 1


def test_a_signal_stops_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stopped: list[bool] = []

    def learn(stop: threading.Event) -> None:
        ending.signals.stop_requested = True
        stopped.append(stop.wait(300))

    ending = Ending(tmp_path / "run", learn)
    ending.supervise()
    assert stopped == [True]
    assert ending.farewells == ["the learner was stopped"]
    assert "stopping; a checkpoint is being written" in caplog.messages


def test_a_signal_during_the_last_save_leaves_a_complete_run(tmp_path: Path) -> None:
    def learn(stop: threading.Event) -> None:
        ending.signals.stop_requested = True
        stop.wait(20)
        ending.complete()

    ending = Ending(tmp_path / "run", learn)
    # It says goodbye when all else is over.
    ending.inference.run = lambda stop, farewell: None
    ending.supervise()


@pytest.mark.parametrize(("complete", "code"), [(True, 0), (False, 75)])
def test_the_exit_code_is_that_of_a_signal_unless_the_run_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool, code: int
) -> None:
    ending = Ending(tmp_path / "run", lambda stop: None)
    ending.servers.stop = lambda timeout_s: None

    def supervise(*_: object) -> None:
        # Servers are still being stopped, or the last checkpoint is being written.
        signal.raise_signal(signal.SIGTERM)
        if complete:
            ending.complete()

    monkeypatch.setattr(main, "assemble", lambda *_: ending.run)
    monkeypatch.setattr(main, "LocalServers", lambda *_: ending.servers)
    monkeypatch.setattr(main, "write_config", lambda *_: None)
    monkeypatch.setattr(main, "freeze_gc", lambda: None)
    monkeypatch.setattr(main, "supervise", supervise)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        lock: Any = SimpleNamespace(accept=lambda: None)
        assert main._train(ending.run.config, Signals(), lock) == code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_servers_that_keep_failing_stop_the_run(tmp_path: Path) -> None:
    def fail() -> None:
        raise LocalServerError("no such game")

    def learn(stop: threading.Event) -> None:
        stop.wait(300)

    ending = Ending(tmp_path / "run", learn)
    ending.check = fail
    with pytest.raises(LocalServerError, match="no such game"):
        ending.supervise()
    assert ending.farewells == ["the learner failed"]


class Lively(Phases):
    """Has always given one more sign of life."""

    _given = 0

    @property
    def heartbeats(self) -> int:
        self._given += 1
        return self._given

    @heartbeats.setter
    def heartbeats(self, number: int) -> None:
        pass


class Stalling(Ending):
    """Has no inference, and is given up after a second of some thread's silence."""

    def __init__(
        self,
        run_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
        learn: Callable[[threading.Event], None],
    ) -> None:
        super().__init__(run_dir, learn)
        self.released = threading.Event()
        self.reasons: list[str] = []
        self.stopped: list[float] = []
        self.servers.stop = self.stopped.append
        self.run.config = replace(self.run.config, watchdog_s=1.0)
        self.inference.run = lambda stop, farewell: None
        monkeypatch.setattr(supervise, "exit_with_stacks", self._give_up)
        # Its timer would end this process, were it only slow.
        monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)

    def _give_up(self, reason: str, clean_up: Callable[[], None]) -> None:
        self.reasons.append(reason)
        clean_up()
        self.signals.stop_requested = True
        self.released.set()


@pytest.mark.parametrize("asked", [False, True])
def test_a_learner_that_stalls_is_given_up_even_while_it_is_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    def learn(stop: threading.Event) -> None:
        ending.signals.stop_requested = asked
        ending.released.wait(300)

    ending = Stalling(tmp_path / "run", monkeypatch, learn)
    ending.supervise()
    assert ending.reasons[0].startswith("the learner thread has made no sign of life for 1 s")
    assert ending.stopped[0] == 0.0


def test_an_authentication_that_stalls_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(stop: threading.Event) -> None:
        ending.released.wait(300)

    def read_keys(stop: threading.Event) -> None:
        authentication.phases.enter("refreshing")
        ending.released.wait(300)

    ending = Stalling(tmp_path / "run", monkeypatch, learn)
    ending.run.learner.phases = Lively()
    authentication = SimpleNamespace(run=read_keys, phases=Phases())
    ending.inference.authentication = authentication
    ending.supervise()
    assert ending.reasons[0] == (
        "the authentication thread has made no sign of life for 1 s (watchdog_s), in its phase "
        "'refreshing'"
    )


# Steps since the checkpoint at the end are played again: a line of them would be set aside.
@pytest.mark.parametrize(("ended_steps", "line_steps"), [(17, 17), (None, 25), (3, 25)])
def test_the_last_line_is_where_the_next_process_goes_on(
    tmp_path: Path, ended_steps: int | None, line_steps: int
) -> None:
    def learn(stop: threading.Event) -> None:
        ending.inference.env_steps = 20
        if ended_steps is not None:
            ending.run.learner.ended_at = Progress(ended_steps, 0, 70.0)

    ending = Ending(tmp_path / "run", learn)
    ending.supervise()
    assert [line["env_steps"] for line in ending.lines()] == [line_steps]


def test_time_never_goes_back_from_a_line_to_the_last_one(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(learner=SimpleNamespace(ended_at=Progress(20, 4, 11.676)))
    window = MetricsWindow(1, Progress(20, 4, 11.687))
    assert supervise._last_progress(run, window) == Progress(20, 4, 11.687)


def test_a_run_whose_folder_vanishes_goes_on_in_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervise, "_LOOK_EVERY_S", 0.0)
    forgotten, run_dir = threading.Event(), tmp_path / "run"

    def learn(stop: threading.Event) -> None:
        shutil.rmtree(run_dir)
        assert forgotten.wait(20)

    ending = Ending(run_dir, learn)
    ending.run.learner.forget_checkpoints = forgotten.set  # type: ignore[method-assign]
    with hold_run(run_dir) as ending.run.lock:
        ending.supervise()
    assert caplog.text.count(f"{run_dir} was deleted or moved; it is made anew") == 1
    assert (run_dir / "config.toml").exists()
    assert len(ending.lines()) == 1


def test_a_run_whose_folder_is_anothers_by_now_ends_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_LOOK_EVERY_S", 0.0)
    run_dir = tmp_path / "run"

    def learn(stop: threading.Event) -> None:
        # At once, as this learner would be quicker otherwise.
        (tmp_path / "other" / "lock").replace(run_dir / "lock")
        assert stop.wait(20)

    ending = Ending(run_dir, learn)
    with (
        hold_run(tmp_path / "other"),
        hold_run(run_dir) as ending.run.lock,
        pytest.raises(RunTaken, match="another learner works there now"),
    ):
        ending.supervise()
    assert ending.lines() == []
    assert ending.farewells == ["the learner failed"]
