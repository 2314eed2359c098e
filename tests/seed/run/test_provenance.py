"""Where a checkpoint comes from, and what is said of it where it is gone on from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from seed import __version__
from seed.algorithms.vtrace import Config as AlgorithmConfig
from seed.config.schema import Config, NetworkConfig
from seed.run.provenance import describe_changes, provenance

CONFIG = Config(algorithm=AlgorithmConfig(), network=NetworkConfig(hidden_sizes=(4, 5)))


def kept(config: Config = CONFIG) -> dict[str, Any]:
    """The state of a checkpoint, as it is read."""
    state: dict[str, Any] = json.loads(json.dumps({"env_frames": 7, **provenance(config)}))
    return state


def test_what_differs_is_named_in_one_line() -> None:
    state, written = kept(), "the checkpoint was written by version 0.0.7, this is"
    assert state["version"] == __version__
    assert state["config"]["network"]["hidden_sizes"] == [4, 5]
    assert describe_changes(state, CONFIG) == ""
    assert describe_changes(state | {"version": "0.0.7"}, CONFIG) == f"{written} {__version__}"
    assert describe_changes(state, replace(CONFIG, seed=9)) == (
        "settings that differ: seed = 9 (it was 1)"
    )
    state["version"] = "0.0.7"
    # Of another version, which had other settings.
    state["config"]["learner"]["gone"] = True
    del state["config"]["watchdog_s"]
    now = replace(CONFIG, seed=9, network=replace(CONFIG.network, hidden_sizes=(4, 6)))
    assert describe_changes(state, now) == (
        f"{written} {__version__}; settings that differ: learner.gone = none (it was true), "
        "network.hidden_sizes = [4, 6] (it was [4, 5]), seed = 9 (it was 1), "
        "watchdog_s = 300.0 (it was none)"
    )


def test_a_field_with_a_new_name_is_no_difference() -> None:
    former = replace(CONFIG, replay=replace(CONFIG.replay, burn_in=4))
    present = replace(CONFIG, learner=replace(CONFIG.learner, burn_in=4))
    assert describe_changes(kept(former), present) == ""
    assert describe_changes(kept(present), present) == ""
    assert describe_changes(kept(former), CONFIG) == (
        "settings that differ: learner.burn_in = 0 (it was 4)"
    )
    state = kept()
    del state["config"]["learner"]["burn_in"]
    assert describe_changes(state, CONFIG) == ""


@pytest.mark.parametrize("found", [{"resume": "never"}, {"module_folders": ("/a",)}])
def test_how_the_checkpoint_and_modules_were_found_is_no_difference(found: Any) -> None:
    assert describe_changes(kept(replace(CONFIG, **found)), CONFIG) == ""


@pytest.mark.parametrize(
    "state", [{}, {"version": "0.1.0"}, {"config": {}}, {"version": "0.1.0", "config": "text"}]
)
def test_one_that_does_not_say_is_passed_over(state: dict[str, Any]) -> None:
    assert describe_changes(state, CONFIG) == ""
