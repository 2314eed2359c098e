"""What is made of one batch: how many updates, from which unrolls, and what follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import ConfigError
from seed.contract import LossResult, Passes
from seed.learner.divergence import Diverged
from seed.learner.sources import Batch
from seed.store.rows import Rows, Unroll
from seed.store.weights import module_tensors
from tests.seed.learning import Setup, make_config, with_learner
from tests.seed.recording import record_on_cpu

LENGTH, BATCH = 3, 4
ALL = [0.0, 1.0, 2.0, 3.0]


def numbered(observations: list[float], version: int = 0, numbers: Any = None) -> Batch:
    """Unrolls of which each row has its unroll's number and, in tenths, its own."""
    rows = torch.arange(LENGTH + 1)[:, None] / 10
    seen = torch.tensor(observations) + rows  # [T + 1, B] float32
    flags, blank = torch.zeros_like(seen, dtype=torch.bool), torch.zeros_like(seen).long()
    unroll = Unroll(
        Rows({"": seen}, blank, blank.float(), flags, flags, flags), blank, {},
        torch.full_like(blank, version), torch.zeros(len(observations), 0),
        torch.ones(len(observations)), 0,
    )  # fmt: skip
    return Batch(unroll, list(range(len(observations))), numbers)


class Passing(Setup):
    """A learner of a module with optional names, which notes what they are given."""

    def __init__(
        self, run_dir: Path, passes: Passes | None = None, *, notes_after: bool = False,
        graphs: bool = False, **names: Any,
    ) -> None:  # fmt: skip
        self.parts: list[Unroll] = []
        self.result: Callable[[Unroll, LossResult], LossResult] = lambda unroll, found: found
        self.after: list[tuple[dict[str, Any], int]] = []
        if passes is not None:
            names["passes"] = lambda config: passes
        if notes_after:
            names["after_batch"] = self.note_after
        for name, function in names.items():
            setattr(self, name, function)
        sizes = {"batch_size": BATCH, "unroll_length": LENGTH}
        super().__init__(run_dir, with_learner(make_config(), cuda_graphs=graphs, **sizes))

    def loss(
        self, agent: nn.Module, target: nn.Module | None, unroll: Unroll, config: Any
    ) -> LossResult:
        """The mean of the observations of all steps, times the weight."""
        self.parts.append(unroll)
        length = len(unroll.rows.rewards) - (len(unroll.rows.rewards) > 1)
        seen = unroll.rows.observations[""][:length]
        loss = agent(seen.mean()[None, None]).sum()
        count = torch.tensor(seen.numel())
        return self.result(unroll, LossResult(loss, {"seen": seen.mean()}, None, count))

    def note_after(
        self, agent: nn.Module, target: None, statistics: dict[str, Tensor], steps: int, config: Any
    ) -> None:
        assert not torch.is_grad_enabled()
        self.after.append(({name: kept.tolist() for name, kept in statistics.items()}, steps))

    def seen(self) -> list[list[float]]:
        """What each loss has seen of row 0, in order of size."""
        return [sorted(part.rows.observations[""][0].tolist()) for part in self.parts]

    def learn_from(self, batch: Batch) -> dict[str, float]:
        self.feed(batch)
        self.learn()
        return self.learner.records.get().scalars


def test_without_passes_a_batch_is_learned_from_whole_and_is_not_copied(tmp_path: Path) -> None:
    setup, batch = Passing(tmp_path), numbered(ALL)
    setup.learn_from(batch)
    (part,) = setup.parts
    assert part.rows.observations[""] is batch.unroll.rows.observations[""]
    assert setup.learner.learner_steps == 1


@pytest.mark.parametrize(
    ("passes", "sizes"),
    [
        (Passes(1, 1), [4]), (Passes(3, 2), [2, 2] * 3), (Passes(2, 3), [2, 1, 1] * 2),
        (Passes(2, 5, "rows"), [3, 3, 2, 2, 2] * 2),
    ],
)  # fmt: skip
def test_every_pass_sees_every_item_once(
    tmp_path: Path, passes: Passes, sizes: list[int]
) -> None:
    setup = Passing(tmp_path, passes)
    setup.learn_from(numbered(ALL))
    assert [len(part.importance) for part in setup.parts] == sizes
    assert setup.learner.learner_steps == len(sizes)
    rows = 1 if passes.items == "rows" else LENGTH + 1
    assert {part.rows.observations[""].shape[0] for part in setup.parts} == {rows}
    expected = ALL if rows > 1 else [unroll + t / 10 for unroll in ALL for t in range(LENGTH)]
    for epoch in range(passes.epochs):
        per_pass = len(sizes) // passes.epochs
        seen = setup.seen()[epoch * per_pass : (epoch + 1) * per_pass]
        rows_seen = sorted(value for part in seen for value in part)
        assert rows_seen == pytest.approx(sorted(expected))


def test_figures_are_means_by_count_and_lag_is_since_before_the_passes(tmp_path: Path) -> None:
    setup = Passing(tmp_path, Passes(2, 3))
    first = setup.learn_from(numbered(ALL, version=0))
    second = setup.learn_from(numbered(ALL, version=4))
    # Minibatches of 2, 1 and 1 unrolls: the mean over all rows.
    assert first["seen"] == pytest.approx(1.6)
    assert second["seen"] == pytest.approx(1.6)
    assert (first["policy_lag_mean"], second["policy_lag_mean"]) == (0.0, 2.0)
    assert first["learning_rate"] == second["learning_rate"] == 0.1
    assert setup.learner.learner_steps == 12
    assert setup.slot.versions == [6, 12], "weights are published after a batch, not within"
    assert setup.slot.rounds == 2


def test_a_sum_counts_as_one(tmp_path: Path) -> None:
    setup = Passing(tmp_path, Passes(1, 3))
    setup.result = lambda unroll, found: found._replace(count=None)
    scalars = setup.learn_from(numbered(ALL))
    means = [sum(part) / len(part) + 0.1 for part in setup.seen()]
    assert scalars["seen"] == pytest.approx(sum(means) / 3)


def test_nothing_to_learn_from_counts_alike(tmp_path: Path) -> None:
    setup = Passing(tmp_path, Passes(1, 2))
    setup.result = lambda unroll, found: found._replace(count=torch.tensor(0))
    assert setup.learn_from(numbered(ALL))["seen"] == pytest.approx(1.6)


# --- prepare ---------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [None, Passes(2, 2), Passes(2, 3, "rows")])
def test_what_is_prepared_once_is_cut_along(tmp_path: Path, passes: Passes | None) -> None:
    calls: list[float] = []

    def prepare(agent: nn.Module, target: None, unroll: Unroll, config: Any) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled()
        calls.append(agent.weight.item())  # type: ignore[operator]
        return {"copy": unroll.rows.observations[""][:-1], "wide": torch.zeros(LENGTH, BATCH, 5)}

    setup = Passing(tmp_path, passes, prepare=prepare)
    setup.learn_from(numbered(ALL))
    # With the weights from before the first update.
    assert calls == [1.0]
    for part in setup.parts:
        seen = part.rows.observations[""]
        copy = part.prepared["copy"]
        assert torch.equal(copy, seen[: len(copy)])
        assert part.prepared["wide"].shape == (*copy.shape, 5)


def test_what_prepare_makes_is_checked(tmp_path: Path) -> None:
    setup = Passing(tmp_path, prepare=lambda *_: {"x": torch.zeros(LENGTH + 1, BATCH)})
    with pytest.raises(ConfigError, match=r"prepare gives 'x': .*\(4, 4\).*expected .*\(3, 4\)"):
        setup.learn_from(numbered(ALL))


@pytest.mark.parametrize(
    ("passes", "planned"),
    [(None, {4}), (Passes(2, 3), {1, 2}), (Passes(2, 3, "rows"), {4})],
)
def test_graphs_make_the_updates_of_plain_calls_whatever_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: Passes | None, planned: set[int]
) -> None:
    def prepare(agent: nn.Module, target: None, unroll: Unroll, config: Any) -> dict[str, Tensor]:
        # One number seen many times, which nothing may be copied into.
        mean = unroll.rows.observations[""].mean()
        return {"mean": mean.expand(LENGTH, unroll.actions.shape[1])}

    def result(unroll: Unroll, found: LossResult) -> LossResult:
        mean = unroll.prepared["mean"]
        return found._replace(loss=found.loss * mean.mean(), statistics={"mean": mean.sum()})

    after, weights = [], []
    for graphs in (False, True):
        if graphs:
            record_on_cpu(monkeypatch)
        folder = tmp_path / str(graphs)
        setup = Passing(folder, passes, notes_after=True, graphs=graphs, prepare=prepare)
        setup.result = result
        for size in (4, 4, 3, 4, 2, 4, 4):
            setup.learn_from(numbered(ALL[4 - size :]))
        captured = {size for size, call in setup.learner._updates._update._planned.items()
                    if call._replay is not None}  # fmt: skip
        after.append(setup.after)
        weights.append(setup.weight)
    assert captured == planned
    assert weights[0] == pytest.approx(weights[1], rel=1e-5)
    assert [steps for _, steps in after[0]] == [steps for _, steps in after[1]]
    for (plain, _), (graphed, _) in zip(*after, strict=True):
        assert plain == pytest.approx(graphed)


# --- stop, skip, after_batch -----------------------------------------------------------------


def stop_at(update: int) -> Callable[[Unroll, LossResult], LossResult]:
    """A metric `kl` that is .2 at the update with this number and .1 before."""
    calls = iter(range(10**6))

    def result(unroll: Unroll, found: LossResult) -> LossResult:
        kl = torch.tensor(0.2 if next(calls) == update else 0.1)
        sums = {"sum": unroll.rows.observations[""][0].sum(), "items": torch.tensor(1.0)}
        return found._replace(metrics={**found.metrics, "kl": kl}, statistics=sums)

    return result


@pytest.mark.parametrize(
    ("stop", "steps", "items"),
    # Statistics are of what was looked at in the first pass.
    [(0, 0, 1.0), (1, 1, 2.0), (5, 5, 2.0), (99, 6, 2.0)],
)
def test_a_metric_beyond_its_limit_ends_the_passes_before_the_step(
    tmp_path: Path, stop: int, steps: int, items: float
) -> None:
    setup = Passing(tmp_path, Passes(3, 2, stop="kl", limit=0.15), notes_after=True)
    setup.result = stop_at(stop)
    scalars = setup.learn_from(numbered(ALL))
    assert setup.learner.learner_steps == steps
    assert len(setup.parts) == min(stop + 1, 6)
    (statistics, at) = setup.after[0]
    assert (statistics["items"], at) == (items, steps)
    assert "kl" in scalars
    assert setup.slot.rounds == 1


def test_statistics_are_sums_over_the_first_pass(tmp_path: Path) -> None:
    setup = Passing(tmp_path, Passes(3, 3), notes_after=True)
    setup.result = stop_at(99)
    setup.learn_from(numbered(ALL))
    assert setup.after == [({"sum": 6.0, "items": 3.0}, 9)]


def test_statistics_of_another_shape_in_each_part_are_refused(tmp_path: Path) -> None:
    setup = Passing(tmp_path, Passes(1, 3), notes_after=True)
    setup.result = lambda unroll, found: found._replace(
        statistics={"targets": unroll.rows.observations[""]}
    )
    with pytest.raises(ConfigError, match=r"\['targets'\].* \(4, 2\) for one part .* \(4, 1\) for"):
        setup.learn_from(numbered(ALL))


def test_after_batch_is_before_publishing_and_changes_what_is_published(tmp_path: Path) -> None:
    def double(agent: nn.Module, *rest: Any) -> None:
        for tensor in module_tensors(agent):
            tensor.mul_(2)

    setup = Passing(tmp_path, Passes(2, 2), after_batch=double)
    setup.learn_from(numbered(ALL))
    published = setup.slot.take()
    assert published is not None
    assert published.tensors[0].item() == setup.weight
    without = Passing(tmp_path / "without", Passes(2, 2))
    without.learn_from(numbered(ALL))
    assert setup.weight == 2 * without.weight


def test_a_skipped_minibatch_ends_the_passes_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    setup = Passing(tmp_path, Passes(2, 2), after_batch=lambda *_: pytest.fail("was called"))
    calls = iter(range(10**6))
    # The third, and all that comes after it: unrolls alone, too.
    setup.result = lambda unroll, found: found._replace(
        loss=found.loss * (1.0 if next(calls) < 2 else math.nan)
    )
    assert setup.learn_from(numbered(ALL)) == {"left": 0.0}
    assert (setup.learner.learner_steps, setup.learner.updates_skipped) == (2, 1)
    assert setup.learner.unrolls_left_out == 0
    assert setup.slot.rounds == 1


# --- unrolls that are left out ---------------------------------------------------------------


def spoil(*broken: float, reduce: Callable[[Tensor], Tensor]) -> Any:
    """The loss is not finite where one of these observations is among the rows."""

    def result(unroll: Unroll, found: LossResult) -> LossResult:
        seen = unroll.rows.observations[""][0]
        factor = torch.ones_like(seen)
        for observation in broken:
            factor = torch.where(seen == observation, torch.nan, factor)
        return found._replace(loss=reduce(found.loss * factor))

    return result


@pytest.mark.parametrize("reduce", [torch.sum, torch.mean])
@pytest.mark.parametrize(
    ("passes", "calls"), [(None, 1 + 4 + 1), (Passes(2, 2), None), (Passes(2, 2, "rows"), None)]
)
@pytest.mark.parametrize("broken", [[1.0], [0.0, 3.0]])
def test_an_unroll_whose_own_loss_is_not_finite_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reduce: Any, passes: Passes | None,
    calls: int | None, broken: list[float],
) -> None:  # fmt: skip
    setup = Passing(tmp_path, passes)
    setup.result = spoil(*broken, reduce=reduce)
    scalars = setup.learn_from(numbered(ALL))
    kept = [each for each in ALL if each not in broken]
    assert scalars["seen"] == pytest.approx(sum(kept) / len(kept) + 0.1)
    assert (setup.learner.updates_skipped, setup.learner.unrolls_left_out) == (0, len(broken))
    assert calls in (None, len(setup.parts))
    assert math.isfinite(setup.weight)
    names = ", ".join(f"environment {each:.0f} (host:{each:.0f})" for each in broken)
    (line,) = [text for text in caplog.messages if "left out" in text]
    assert f"of unrolls of {names} are not finite; left out of their batch ({len(broken)} " in line


def test_a_gradient_that_is_not_finite_leaves_an_unroll_out_too(tmp_path: Path) -> None:
    setup = Passing(tmp_path)

    def result(unroll: Unroll, found: LossResult) -> LossResult:
        if not (unroll.rows.observations[""][0] == 2.0).any():
            return found
        # The root's slope at zero.
        return found._replace(loss=(found.loss - found.loss.detach()).sqrt())

    setup.result = result
    setup.learn_from(numbered(ALL))
    assert (setup.learner.learner_steps, setup.learner.unrolls_left_out) == (1, 1)


def test_what_is_left_out_of_replay_hardly_comes_again(tmp_path: Path) -> None:
    setup = Passing(tmp_path)
    broken = spoil(1.0, reduce=torch.sum)
    setup.result = lambda unroll, found: broken(unroll, found)._replace(
        priorities=unroll.rows.observations[""][0] + 5
    )
    setup.learn_from(numbered(ALL, numbers=np.array([11, 12, 13, 14])))
    assert setup.source.updates == [([11, 13, 14], [5.0, 7.0, 8.0]), ([12], [0.0])]


@pytest.mark.parametrize(
    "factor",
    # Each unroll by itself is fine in the second: nothing can be left out, and nothing is retried.
    [lambda unroll: math.nan, lambda unroll: math.nan if len(unroll.importance) == BATCH else 1.0],
)
def test_only_whole_batches_end_a_run(tmp_path: Path, factor: Callable[[Unroll], float]) -> None:
    setup = Passing(tmp_path)
    setup.result = lambda unroll, found: found._replace(loss=found.loss * factor(unroll))
    for skipped in range(1, 10):
        setup.learn_from(numbered(ALL))
        assert setup.learner.updates_skipped == skipped
        assert len(setup.parts) == skipped * (1 + BATCH)
    with pytest.raises(Diverged, match="10 batches in a row"):
        setup.learn_from(numbered(ALL))
    assert setup.learner.unrolls_left_out == 0


def test_batches_with_one_bad_unroll_never_end_a_run(tmp_path: Path) -> None:
    setup = Passing(tmp_path)
    setup.result = spoil(2.0, reduce=torch.sum)
    for _ in range(15):
        setup.learn_from(numbered(ALL))
    assert (setup.learner.learner_steps, setup.learner.unrolls_left_out) == (15, 15)
