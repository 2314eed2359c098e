"""The measurement of sampling runs, and what it compares does the same; times are not judged."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from seed.learner.sum_tree import Priorities
from tools.bench.replay_sampling import Contender, PrefixSum, SumTree, main

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    tiny = ("--items", "3", "70", "--batch", "4", "--rounds", "2", "--repetitions", "3")
    main([*tiny, "--json", str(path)])
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_every_size_is_measured(figures: dict[str, Any]) -> None:
    assert [row["items"] for row in figures["rows"]] == [3, 70]
    for row in figures["rows"]:
        times_us = row["median_us"]
        assert set(times_us) == {"sum_tree", "prefix_sum"}
        assert min(times_us.values()) > 0
        assert row["ratio"] == times_us["prefix_sum"] / times_us["sum_tree"]


def test_the_settings_are_kept(figures: dict[str, Any]) -> None:
    assert figures["origin"]["torch"] == torch.__version__
    assert figures["settings"] == {
        "items": [3, 70], "batch": 4, "inserts": 85, "exponent": 0.9, "rounds": 2,
        "repetitions": 3, "device": "cpu",
    }  # fmt: skip


def test_both_sample_by_the_same_probabilities() -> None:
    torch.manual_seed(0)
    tree, prefix = Priorities(5, 0.9, np.random.default_rng(0)), PrefixSum(5, 0.9, CPU)
    first, second = np.array([9, 9, 1, 2], np.float32), np.array([math.nan, 4, 5], np.float32)
    # The first of them is gone by then, and another in its slot.
    numbers, changed = np.array([1, 3]), np.array([7, 0], np.float32)
    tree.insert(first)
    tree.evict(2)
    tree.insert(second)
    tree.update_priorities(numbers, changed)
    prefix.insert(torch.from_numpy(first))
    prefix.evict(2)
    prefix.insert(torch.from_numpy(second))
    prefix.update_priorities(torch.from_numpy(numbers), torch.from_numpy(changed))
    weights = {2: 1.0, 3: 1e-6**0.9, 5: 4**0.9, 6: 5**0.9}
    for drawn in (tree.sample(200), prefix.sample(200)):
        found = dict(zip(drawn.numbers.tolist(), drawn.probabilities.tolist(), strict=True))
        assert set(found) == {2, 5, 6}
        expected = {number: weights[number] / sum(weights.values()) for number in found}
        assert found == pytest.approx(expected)


def test_a_round_replaces_items_and_updates_what_it_samples() -> None:
    torch.manual_seed(0)
    tree, prefix = SumTree(6, 1.0, CPU), PrefixSum(6, 1.0, CPU)
    contenders: list[Contender] = [tree, prefix]
    for contender in contenders:
        contender.insert(torch.ones(6))
        # Fifty draws find all six.
        contender.play_round(torch.full((4,), 2.0), torch.full((50,), 3.0))
    for drawn in (tree._priorities.sample(200), prefix.sample(200)):
        assert set(drawn.numbers.tolist()) == set(range(4, 10))
        assert drawn.probabilities.tolist() == pytest.approx([1 / 6] * 200)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--items", "0"), "0: expected a whole number of at least 1"),
        (("--device", "cpu:x"), "--device = 'cpu:x'"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert expected in capsys.readouterr().err
