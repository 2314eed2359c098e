"""What the loop does about NaN and infinity, and about checkpoints that fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seed.learner import checkpoint
from seed.learner.checkpoint import SaveFailed
from seed.learner.divergence import Diverged
from seed.process.plain_files import write_file
from seed.run.lock import RunTaken
from tests.seed.learning import BATCH, Kind, Setup, Targeting, make_batch, make_config


@pytest.mark.parametrize(
    ("spoil", "loss", "norm"),
    [
        (lambda loss: loss * math.nan, "nan", "nan"),
        (lambda loss: loss * math.inf, "inf", "inf"),
        # The root's slope at zero.
        (lambda loss: (loss - loss.detach()).sqrt(), "0.0", "inf"),
    ],
    ids=["nan", "inf", "gradient"],
)
@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
def test_what_is_not_finite_is_skipped_and_ten_in_a_row_are_the_end(
    tmp_path: Path, kind: Kind, spoil: Callable[[Tensor], Tensor], loss: str, norm: str
) -> None:
    batches = [make_batch(1.0, numbers=[5, 9])] * 30
    setup = Targeting(tmp_path, make_config(kind=kind), *batches)
    # Updates 1 and 2, nine that are skipped, update 3, and ten more.
    good = (10, 20, 120)
    setup.on_loss = lambda mean: mean if setup.env_steps in good else spoil(mean)
    setup.learn(2)
    before = setup.packed()
    setup.learn(9)
    assert (setup.learner.updates_skipped, setup.learner.learner_steps) == (9, 2)
    now = setup.packed()
    assert before.keys() == now.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in now.items())
    # No priorities, no target and no weights for inference either.
    assert (len(setup.source.updates), len(setup.calls), setup.slot.versions) == (2, 2, [1, 2])
    with pytest.raises(Diverged, match=rf"^update 4: the loss is {loss}, .* norm {norm}, .* 10 ba"):
        setup.run()
    assert (setup.learner.updates_skipped, setup.learner.learner_steps) == (19, 3)
    assert len(setup.records()) == 3, "what was skipped has no figures"
    assert len(setup.source.batches) == 30 - 22
    assert checkpoint.names(setup.checkpoints) == [], "no checkpoint of a diverged state"


def test_the_end_names_the_environments_whose_rows_were_extreme(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The good batch between them has nothing to do with the end.
    setup = Setup(tmp_path, None, -7e20, 1.0, *[3e38] * 10)
    setup.on_loss = lambda mean: mean if setup.env_steps == 20 else mean * math.inf
    with pytest.raises(Diverged) as ended:
        setup.run()
    (skipped,) = [x for x in caplog.messages if "skipped" in x]
    for env_id in range(BATCH):
        assert f"observation of environment {env_id} (host:{env_id}): 7e+20" in skipped
        assert f"observation of environment {env_id} (host:{env_id}): 3e+38" in str(ended.value)
    assert "7e+20" not in str(ended.value)
    assert "reward of" not in str(ended.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_weights_are_never_saved(tmp_path: Path, value: float) -> None:
    setup = Setup(tmp_path, None, 1.0)
    setup.learn()
    setup.learner._save()
    (kept,) = checkpoint.names(setup.checkpoints)
    nn.init.constant_(setup.agent.weight, value)
    setup.env_steps += 10
    with pytest.raises(Diverged, match=r"^agent\.weight holds what is no finite number"):
        setup.learner._save()
    assert checkpoint.names(setup.checkpoints) == [kept]
    assert setup.learner.checkpoints_failed == 0


def test_a_broken_optimizer_is_never_saved(tmp_path: Path) -> None:
    setup = Setup(tmp_path, None, 1.0)
    setup.learn()
    setup.learner._optimizer.state[setup.agent.weight]["exp_avg_sq"].fill_(math.inf)
    with pytest.raises(Diverged, match=r"^optimizer\.weight\.exp_avg_sq holds"):
        setup.learner._save()


def test_weights_that_break_by_finite_gradients_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed.learner.batch_updates._CHECK_WEIGHTS_EVERY_UPDATES", 1)
    setup = Setup(tmp_path, make_config(learning_rate=math.inf), *[1.0] * 12)
    with pytest.raises(Diverged, match=r"agent\.weight"):
        setup.run()
    assert setup.learner.learner_steps == 1
    assert (setup.slot.versions, checkpoint.names(setup.checkpoints)) == ([], [])


def test_broken_weights_name_what_was_extreme_where_gradients_were_steep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed.learner.batch_updates._CHECK_WEIGHTS_EVERY_UPDATES", 2)
    # The gradient is what is observed. What was there before the last check has broken nothing.
    setup = Setup(tmp_path, None, 8e15, 1.0, 7e15)
    setup.learn(3)
    nn.init.constant_(setup.agent.weight, math.inf)
    with pytest.raises(Diverged) as ended:
        setup.learner._save()
    text = str(ended.value)
    assert "finite; extreme in batches shortly before: observation of" in text
    assert "environment 1 (host:1): 7e+15. All" in text
    assert "8e+15" not in text


def fail_to_save(monkeypatch: pytest.MonkeyPatch, fails: Callable[[], bool]) -> None:
    """Makes the disk full whenever `fails` says so."""

    def write_or_fail(path: Path, content: bytes) -> None:
        if fails():
            raise OSError(28, "No space left on device")
        write_file(path, content)

    monkeypatch.setattr("seed.learner.checkpoint.writing.write_file", write_or_fail)


def test_a_failed_save_is_counted_and_tried_again_after_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup(tmp_path, make_config(40, interval_s=0.0), *[1.0] * 4)
    fail_to_save(monkeypatch, lambda: setup.env_steps in (20, 30))
    setup.run()
    assert (setup.learner.learner_steps, setup.learner.checkpoints_failed) == (4, 2)
    assert [name[-1] for name in checkpoint.names(setup.checkpoints)] == ["1", "4", "4"]
    (first, _) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "updates-0000000002: the checkpoint could not be written ([Errno 28]" in first
    assert "the newest is " in first
    assert first.endswith("updates-0000000001. Going on; the next one is due in 0 s")


def test_a_failed_save_does_not_come_again_before_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(tmp_path)
    fail_to_save(monkeypatch, lambda: True)
    setup.learner._saver._saved_s -= 3601.0
    for _ in range(3):
        setup.learn()
    assert setup.learner.checkpoints_failed == 1


def test_the_last_save_has_to_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tmp_path)
    fail_to_save(monkeypatch, lambda: True)
    with pytest.raises(SaveFailed, match=r"No space left on device\); there is none yet$"):
        setup.run(stopped=True)
    assert setup.learner.checkpoints_failed == 1


# Nothing may be written where another learner may be at work.
def test_nothing_is_saved_into_a_folder_that_is_not_held(tmp_path: Path) -> None:
    setup = Setup(tmp_path)

    def fail(error: Exception) -> Callable[[], bool]:
        def hold() -> bool:
            raise error

        return hold

    setup.learner._saver._hold = fail(RunTaken("another learner works there"))
    with pytest.raises(RunTaken):
        setup.run(stopped=True)
    setup.learner._saver._hold = fail(OSError(5, "Input/output error"))
    with pytest.raises(SaveFailed, match=r"the run's lock cannot be seen or had \(.*Input/output"):
        setup.run(stopped=True)
    assert not setup.checkpoints.exists()
    assert setup.learner.ended_at is None
