"""`seed-eval` without its processes: what counts, what it runs, and what it refuses."""

from __future__ import annotations

import json
import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import astuple
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seed.config.checks import check
from seed.config.schema import Config, ConfigError, InferenceConfig, LocalConfig
from seed.contract.loading import load_algorithm
from seed.inference.fault_log import FaultLog
from seed.inference.loop import BatchRecord, EpisodeRecord
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint
from seed.process.threads import ThreadGroup
from seed.run import evaluate
from seed.run.description import Spaces
from seed.run.evaluate import Result, main
from seed.run.local_servers import LocalServerError, LocalServers
from seed.run.plan import make_agent
from seed.transport.authentication import make_authentication
from seed.wire.spaces import SpaceSpec
from tests.seed.central import Dealer, drain
from tests.seed.checkpoints import state_of
from tests.seed.configs import make_config

RESULT = Result(4, 1.5, 0.5, 1.0, 2.0, 7.25, 123_456)


pytestmark = pytest.mark.usefixtures("process_state")


def episode(env_id: int, episode_return: float, length_steps: int = 1) -> EpisodeRecord:
    return EpisodeRecord(env_id, episode_return, length_steps, evaluation=True)


class PlayedInference:
    """Inference whose episodes have been played already."""

    num_envs = 1
    faults: Any = FaultLog()

    def __init__(self, records: list[EpisodeRecord | BatchRecord]) -> None:
        self.records: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.endpoint = "tcp://127.0.0.1:1"
        for record in records:
            self.records.put(record)

    def run(self, stop: threading.Event, farewell: Callable[[], str]) -> None:
        stop.wait(300)


class NoServers(LocalServers):
    """Local servers that are none, and remember what was asked of them."""

    done: list[object]

    def __init__(self, command: list[str], count: int) -> None:
        super().__init__(command, 0)
        self.done += [command, count]

    def stop(self, timeout_s: float) -> None:
        self.done.append("stopped")


def play(
    monkeypatch: pytest.MonkeyPatch, envs: int, episodes: int, records: list[Any]
) -> list[EpisodeRecord]:
    NoServers.done = []
    monkeypatch.setattr(evaluate, "LocalServers", NoServers)
    monkeypatch.setattr(evaluate, "_TICK_S", 0.001)
    inference: Any = PlayedInference(records)
    return evaluate._play(evaluate._adapt(Config(), envs), inference, episodes)


@pytest.mark.parametrize(
    ("envs", "episodes", "records", "returns"),
    [
        # Else an evaluation would consist of the episodes that end early.
        (2, 4, [*((0, float(number)) for number in range(10)), (1, 100.0), (1, 101.0)],
         [0, 1, 100, 101]),
        # What does not divide goes to the first environments.
        (3, 7, [(env_id, float(env_id)) for _ in range(5) for env_id in (2, 1, 0)],
         [0, 0, 0, 1, 1, 2, 2]),
    ],
)  # fmt: skip
def test_one_server_plays_and_every_environment_as_many_episodes(
    monkeypatch: pytest.MonkeyPatch, envs: int, episodes: int, records: list[tuple[int, float]],
    returns: list[float],
) -> None:  # fmt: skip
    played = play(monkeypatch, envs, episodes, [BatchRecord(2, 0.1), *starmap(episode, records)])
    assert sorted(record.episode_return for record in played) == returns
    command, *others = NoServers.done
    assert others == [1, "stopped"]
    assert isinstance(command, list)
    for option, value in {"--connect": "tcp://127.0.0.1:1", "--num-envs": str(envs)}.items():
        assert command[command.index(option) + 1] == value


def test_an_environment_in_quarantine_ends_the_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PlayedInference, "faults", FaultLog())
    PlayedInference.faults.num_quarantined = 1
    with pytest.raises(LocalServerError, match="failed too often"):
        play(monkeypatch, 2, 4, [episode(0, 0.0)])
    assert NoServers.done[-1] == "stopped"


def test_a_failure_of_inference_is_the_evaluations_and_leaves_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(PlayedInference, "run", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        play(monkeypatch, 1, 1, [])
    assert NoServers.done[-1] == "stopped"


@pytest.mark.parametrize("envs", [1, 3, 400])
def test_any_runs_configuration_can_be_played(envs: int) -> None:
    config = Config(
        local_envservers=0,
        inference=InferenceConfig(
            address="tcp://0.0.0.0:5555", max_envs=2, max_batch=64, min_batch=64, max_wait_us=10**9,
            secret_key="not/here.key", allowed_keys="not/here", max_envs_per_key=1,
        ),
        local=LocalConfig(envs_per_server=32, groups_per_server=4),
    )
    adapted = evaluate._adapt(config, envs)
    check(adapted)
    assert adapted.local_envservers == 1
    assert (adapted.local.envs_per_server, adapted.local.groups_per_server) == (envs, 1)
    assert adapted.inference.address == "tcp://127.0.0.1:*"
    assert adapted.inference.max_envs == envs
    assert make_authentication(adapted.inference) is None
    assert adapted.inference.max_envs_per_key == 0
    assert adapted.inference.max_batch >= envs
    assert adapted.inference.min_batch == 1
    assert adapted.inference.evaluation_share == 1
    # What the agent sees and is stays as it was.
    for table in ("environment", "network", "algorithm", "seed"):
        assert getattr(adapted, table) == getattr(config, table)


# With epsilon-greedy acting they would else explore, and nobody would take their pages away.
def test_all_environments_are_evaluation_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seed.inference.loop._FAREWELL_MS", 5)
    config = evaluate._adapt(make_config(learner={"unroll_length": 1, "batch_size": 1}), 2)
    spaces = Spaces(SpaceSpec("float32", (3,)), SpaceSpec("int64", (), 2))
    agent = make_agent(load_algorithm("vtrace"), config, spaces, torch.device("cpu"))
    tensors = {f"agent.{name}": value for name, value in agent.state_dict().items()}
    kept = Checkpoint(tensors, {"spaces": spaces.to_map(), "learner_steps": 3})
    inference = evaluate._build(evaluate._plan(config, kept), greedy=False)
    threads = ThreadGroup()
    threads.start("inference", lambda: inference.run(threads.stop, lambda: "the end"))
    dealer = Dealer(inference.endpoint)
    try:
        dealer.hello(2)
        # With one row to a page, more pages than the store has.
        for seq in range(20):
            dealer.step_arrays(seq, np.ones((2, 3), np.float32), episodes=[(1, 7, 2.5)])
            dealer.actions(seq)
    finally:
        dealer.socket.close()
        threads.join()
    episodes = [r for r in drain(inference.records) if isinstance(r, EpisodeRecord)]
    assert episodes == [EpisodeRecord(1, 2.5, 7, evaluation=True)] * 20


NAME = checkpoint.name_of(5, 0)


def write_run(run_dir: Path, **state: Any) -> Path:
    """A run's folder with a checkpoint."""
    run_dir.mkdir()
    (run_dir / "config.toml").write_text('[algorithm]\nname = "vtrace"\n')
    kept = Checkpoint({"agent.weight": torch.zeros(1)}, state_of(**state))
    checkpoint.save(run_dir / "checkpoints", NAME, kept, keep=1)
    return run_dir


@pytest.mark.parametrize(
    ("path", "changed", "text", "code", "words"),
    [
        ("nothing", "", "", 2, "expected the folder of a run or one of its checkpoints"),
        ("run", "checkpoints", "", 78, "no checkpoint yet"),
        ("run", f"checkpoints/{NAME}/{checkpoint.STATE}", "{}", 78, "not as it was written"),
        (f"run/checkpoints/{NAME}", f"checkpoints/{NAME}/{checkpoint.STATE}", "{}", 78,
         "not as it was written"),
        ("run", "config.toml", "[learner]\nbatch_size = 0", 2, "learner.batch_size = 0"),
        # An algorithm is found where the run has found it.
        ("run", "config.toml", 'module_folders = ["HERE"]\nalgorithm.name = "algorithm_beside_it"',
         2, "algorithm_beside_it lacks"),
        # Of a checkpoint that says nothing of its spaces.
        ("run", "", "", 78, "spaces of another form"),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, changed: str, text: str,
    code: int, words: str,
) -> None:  # fmt: skip
    (tmp_path / "algorithm_beside_it.py").write_text("")
    run_dir = write_run(tmp_path / "run", env_frames=5)
    if text:
        (run_dir / changed).write_text(text.replace("HERE", str(tmp_path)))
    elif changed:
        shutil.rmtree(run_dir / changed)
    assert main([str(tmp_path / path)]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    *warnings, said = printed.err.splitlines()
    assert len(warnings) == (path == "run" and text == "{}")
    assert said.startswith("seed-eval: ")
    assert words in printed.err


def test_a_checkpoint_is_found_by_its_run_or_by_its_own_path_and_plays_no_more_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = write_run(tmp_path / "run", env_frames=5)
    configs: list[Config] = []
    monkeypatch.setattr(evaluate, "_plan", lambda config, loaded: configs.append(config))
    monkeypatch.setattr(evaluate, "_build", lambda *_: None)
    monkeypatch.setattr(evaluate, "_play", lambda config, inference, episodes: [
        episode(0, float(number), 2 * number) for number in range(episodes)
    ])  # fmt: skip
    for path in (run_dir, run_dir / "checkpoints" / NAME):
        result = evaluate.evaluate(path, 3, 8, greedy=False)
        assert astuple(result) == pytest.approx((3, 1.0, (2 / 3) ** 0.5, 0.0, 2.0, 2.0, 5))
    assert [config.local.envs_per_server for config in configs] == [3, 3]


@pytest.mark.parametrize("option", ["--episodes", "--envs"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_refuses_counts_below_one(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"expected an integer of at least 1, got '{value}'" in capsys.readouterr().err


def test_prints_one_line_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> Result:
        asked.append(arguments)
        print("words of an algorithm")
        if len(asked) > 2:
            raise ConfigError("a \x1b[2J name")
        return RESULT

    monkeypatch.setattr(evaluate, "evaluate", note)
    assert main(["some/run"]) == 0
    assert capsys.readouterr().out == (
        "return 1.50 ± 0.50 (from 1 to 2) over 4 episodes of 7 steps; "
        "checkpoint of 123,456 frames\n"
    )
    assert main(["some/run", "--json", "--greedy", "--episodes", "3", "--envs", "2"]) == 0
    assert json.loads(capsys.readouterr().out) == vars(RESULT)
    assert asked == [(Path("some/run"), 20, 8, False), (Path("some/run"), 3, 2, True)]
    # What an error quotes steers no terminal.
    assert main(["some/run"]) == 2
    assert capsys.readouterr().err.endswith("\nseed-eval: a \\x1b[2J name\n")
