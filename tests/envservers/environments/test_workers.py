from __future__ import annotations

import multiprocessing
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv

from envservers.environments import workers
from envservers.environments.factory import make_group
from envservers.environments.group import Group, GroupRow, InvalidEnvironment, InvalidRow
from envservers.environments.gymnasium_groups import GymnasiumGroup
from envservers.environments.workers import WorkerError, how_workers_ended, workers_of
from seed.wire.spaces import SpaceSpec

# How Gymnasium says what another process has raised, before it raises the same here.
pytestmark = pytest.mark.filterwarnings("ignore:.*(ERROR|Traceback)")

SEEDS, STAY = np.arange(2), np.zeros((2, 1), np.float32)


def make(name: str, num_envs: int = 2, **kwargs: Any) -> Group:
    table = {
        "kind": "function", "id": f"tests.envservers.worker_envs:{name}", "kwargs": kwargs,
        "vectorization": "async",
    }  # fmt: skip
    return make_group(table, num_envs)


def play(group: Group, actions: Any, num_steps: int) -> list[GroupRow]:
    return [group.reset(SEEDS), *(group.step(actions) for _ in range(num_steps))]


def test_environments_in_processes_may_differ_in_bounds_and_infos() -> None:
    group = make("Fragile")
    assert (group.observation, group.action) == (
        SpaceSpec("float32", (2,)), SpaceSpec("float32", (1,))
    )  # fmt: skip
    rows = play(group, np.full((2, 1), 0.5, np.float32), 4)
    # The wire's 0.5 is half of what each environment's own bounds allow.
    assert rows[1].observations.tolist() == [[1, 0.5], [1, 1]]
    assert rows[1].observations.dtype == np.float32
    assert rows[3].terminated.all()
    assert rows[4].first.all()
    group.close()


def test_discrete_values_count_from_zero_in_processes_too() -> None:
    group = make("Discreet")
    rows = play(group, np.array([0, 1]), 1)
    assert [row.observations.tolist() for row in rows] == [[0, 0], [1, 1]]
    group.close()


# The traceback of the other process is that of the fault. Its close() hangs.
@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [("raise", WorkerError, r"in fail(.|\n)*ConnectionError: the simulator is gone\n$"),
     ("leave", WorkerError, "SystemExit: no licence\n$"),
     ("exit", RuntimeError, "^the process of environment 1 ended with exit code 7$"),
     ("unfit", InvalidRow, "^the environment returned terminated = 0.5, expected True or False$")],
)  # fmt: skip
def test_what_breaks_in_mid_step_is_told_and_closed(
    monkeypatch: pytest.MonkeyPatch, how: str, kind: type[Exception], text: str
) -> None:
    monkeypatch.setattr(workers, "_PATIENCE_S", 0.2)
    before = set(multiprocessing.active_children())
    group = make("Fragile", how=how)
    with pytest.raises(kind, match=text):
        play(group, STAY, 3)
    group.close()
    assert set(multiprocessing.active_children()) <= before


def test_one_that_comes_back_twice_from_a_step_goes_on_once() -> None:
    group = make("Fragile", how="fork")
    group.reset(np.arange(2))
    rows = [group.step(np.zeros((2, 1), np.float32)) for _ in range(3)]
    assert [row.observations[1, 0] for row in rows] == [1, 2, 3]
    group.close()


def test_what_cannot_be_made_in_a_process_is_refused_with_its_reason() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(InvalidEnvironment, match=r"made: OSError: the port is taken \(in a "):
        make("Fragile", how="make")
    assert set(multiprocessing.active_children()) <= before


def test_gymnasiums_own_class_is_ended_in_mid_step() -> None:
    """One that a user's function has made."""
    env = AsyncVectorEnv([partial(gymnasium.make, "CartPole-v1")] * 2, context="forkserver")
    group = GymnasiumGroup(env, 2)
    group.reset(SEEDS)
    env.processes[1].kill()
    env.processes[1].join()
    with pytest.raises(RuntimeError, match="process of environment 1 ended with exit code -9"):
        group.step(np.zeros(2, np.int64))
    group.close()
    assert all(process.exitcode is not None for process in env.processes)
    assert env.closed


def test_other_objects_have_no_processes() -> None:
    assert workers_of(object()) == []
    assert how_workers_ended(object()) == ""
