"""Replay in files: what was saved comes back, into other pages, perhaps into another store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seed.config.schema import ReplayConfig
from seed.learner.replay_files import UnfitReplay, count_pages, read_pages, write_pages
from seed.store.layout import Column, StoreLayout
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.wire.arrays import Float32Array, Int64Array
from tests.seed import store_model
from tests.seed.comparing import assert_same
from tests.seed.counting import BURN_IN, LAYOUT, LENGTH, Setup, check_all
from tests.seed.store_model import Model

CONFIG = ReplayConfig(burn_in=BURN_IN, min_rows=3 * LENGTH, ratio=4.0)
CHANCES = {"breaks": 0.02, "ends": 0.07}


def filled(layout: StoreLayout = LAYOUT, **chances: float) -> Setup:
    """A replay that has evicted, with a priority of its own for every unroll."""
    setup = Setup(CONFIG, layout)
    setup.batches(40, **(chances or CHANCES))
    numbers = numbers_of(setup)
    setup.replay.update_priorities(numbers, torch.from_numpy(numbers / 8 + 0.5).float())
    return setup


def numbers_of(setup: Setup) -> Int64Array:
    """Of all unrolls that are there, the oldest first."""
    return np.arange(setup.replay._priorities.begin, setup.replay._priorities.end)


def priorities_of(setup: Setup) -> Float32Array:
    return setup.replay._priorities.priorities()


def observed(form: Column, part: str = "") -> dict[str, Any]:
    """The change of a layout whose observations are of this form."""
    return {"observations": {part: form}}


def held(setup: Setup, newest: int = 100) -> Unroll:
    """The newest unrolls, the oldest first."""
    slots = numbers_of(setup)[-newest:] % setup.store.layout.replay_unrolls
    return setup.store.gather(setup.replay._links[slots])


def load(folder: Path, layout: StoreLayout = LAYOUT, **config: Any) -> Setup:
    """A new store with a replay that took over what lies there."""
    setup = Setup(replace(CONFIG, **config), layout)
    # So that pages are not where they were.
    setup.store._table._free[:] = np.random.default_rng(1).permutation(layout.num_pages)
    setup.replay.load(folder)
    return setup


def move(setup: Setup, folder: Path, layout: StoreLayout = LAYOUT, **config: Any) -> Setup:
    setup.replay.save(folder / "replay", lambda: None)
    return load(folder / "replay", layout, **config)


@pytest.mark.parametrize("piece_bytes", [1, 100, 2**26])
@pytest.mark.parametrize("changes", [
    {}, {"burn_in": 0}, {"frame_stack": 3}, {"state_size": 0, "burn_in": 0},
    observed(Column((4,), torch.int32)),
], ids=lambda changes: "-".join(changes))  # fmt: skip
def test_what_was_saved_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], piece_bytes: int
) -> None:
    monkeypatch.setattr("seed.learner.replay_files._PIECE_BYTES", piece_bytes)
    layout = replace(LAYOUT, **changes)
    setup = filled(layout)
    other = move(setup, tmp_path, layout)
    assert len(other.replay) == len(setup.replay) == layout.replay_unrolls
    assert_same(held(other), held(setup))
    assert np.array_equal(priorities_of(other), priorities_of(setup))
    assert other.replay.scalars() == setup.replay.scalars()
    assert other.replay._inserts_due() == setup.replay._inserts_due()


def test_each_part_has_a_file_in_the_folder(tmp_path: Path) -> None:
    model = Model(store_model.LAYOUT)
    for _ in range(2 * model.layout.unroll_length + 1):
        model.write([0], [0])
    links = np.array(model.store.take(2, 0.0))
    saved = write_pages(tmp_path, model.store, links, lambda: None)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"observations%2Fhand%2Fcamera.npy", "observations%2Fspeed.npy"} < names
    other = UnrollStore(model.layout, model.store.device)
    assert_same(other.gather(read_pages(tmp_path, other, saved)), model.store.gather(links))


def test_a_page_is_written_once(tmp_path: Path) -> None:
    setup = filled()
    setup.replay.save(tmp_path / "replay", lambda: None)
    rows = LENGTH * count_pages(setup.replay._links)
    assert len(np.load(tmp_path / "replay/observations.npy")) == rows
    assert rows < LENGTH * 3 * len(setup.replay)


# All of a large file at the end could take longer than the watchdog waits.
def test_little_waits_for_the_disk_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = filled()
    monkeypatch.setattr("seed.learner.replay_files._PIECE_BYTES", 100)
    signs: list[str] = []
    setup.replay.save(tmp_path / "at once", lambda: signs.append("of a piece"))
    monkeypatch.setattr("seed.learner.replay_files._UNSYNCED_BYTES", 300)
    events: list[tuple[str, int]] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append((path.name, path.stat().st_size))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    setup.replay.save(tmp_path / "replay", lambda: events.append(("sign", 0)))
    path = tmp_path / "replay/observations.npy"
    synced = [size for name, size in events if name == path.name]
    assert len(synced) > 3
    header_bytes = 128
    waiting = np.diff([0, *synced, path.stat().st_size])
    assert max(waiting) <= 300 + 100 + header_bytes
    # Of every piece and of every wait.
    assert events.count(("sign", 0)) == len(signs) + sum(name != "sign" for name, _ in events)


def test_goes_on_and_gives_all_pages_back(tmp_path: Path) -> None:
    setup = move(filled(), tmp_path)
    check_all(setup.batches(60, **CHANCES))
    assert setup.replay._priorities.begin > LAYOUT.replay_unrolls
    setup.close()


@pytest.mark.parametrize("capacity", [1, 5, 12, 20])
def test_as_many_as_fit_are_kept_of_the_newest(tmp_path: Path, capacity: int) -> None:
    setup = filled()
    other = move(setup, tmp_path, replace(LAYOUT, replay_unrolls=capacity))
    kept = min(capacity, 12)
    assert len(other.replay) == kept
    assert_same(held(other), held(setup, newest=kept))
    assert np.array_equal(priorities_of(other), priorities_of(setup)[-kept:])
    other.close()


# As where there are fewer environments now, and so fewer pages to spare for broken histories.
@pytest.mark.parametrize("lacking", [1, 3])
def test_what_needs_more_pages_than_there_are_is_left_out(tmp_path: Path, lacking: int) -> None:
    setup = filled(breaks=0.1)
    pages = count_pages(setup.replay._links)
    layout = replace(LAYOUT, num_pages=pages - lacking)
    other = move(setup, tmp_path, layout)
    kept = len(other.replay)
    assert 0 < kept < len(setup.replay)
    assert_same(held(other), held(setup, newest=kept))
    assert np.array_equal(priorities_of(other), priorities_of(setup)[-kept:])
    check_all(other.batches(60, **CHANCES))
    other.close()


def test_where_nothing_fits_the_learner_waits(tmp_path: Path) -> None:
    setup = Setup(replace(CONFIG, ratio=40.0))
    setup.batches(1)
    other = move(setup, tmp_path, replace(LAYOUT, num_pages=1), ratio=40.0)
    # Samples are still owed, but there is nothing to sample from.
    assert setup.replay.wait(0.0)
    assert not other.replay.wait(0.0)


@pytest.mark.parametrize("empty_first", [True, False])
def test_an_empty_replay_can_be_saved(tmp_path: Path, empty_first: bool) -> None:
    setup = Setup(CONFIG)
    if not empty_first:
        setup.batches(5, **CHANCES)
        setup.close()
    other = move(setup, tmp_path)
    assert len(other.replay) == 0
    check_all(other.batches(20, **CHANCES))
    other.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unroll_length": 7}, "expected {'unroll_length': 7, 'burn_in': 4}"),
        ({"burn_in": 3}, "expected {'unroll_length': 6, 'burn_in': 3}"),
        (observed(Column((5,), torch.int64)), r"int64 \[4\] a row, expected int64 \[5\]"),
        (observed(Column((4,), torch.int32)), r"int64 \[4\] a row, expected int32 \[4\]"),
        ({"state_size": 2}, r"agent_states.npy holds float32 \[1\] a row, expected float32 \[2\]"),
        ({"behaviour": {"new": Column((), torch.float32)}}, r"behaviour.new.npy cannot be read \("),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refuses_what_is_of_another_form(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    filled().replay.save(tmp_path / "replay", lambda: None)
    other = Setup(CONFIG, replace(LAYOUT, **changes))
    with pytest.raises(UnfitReplay, match=reason):
        other.replay.load(tmp_path / "replay")
    # Nothing has been touched.
    assert other.replay.scalars() == {"replay_unrolls": 0.0}
    other.close()


# Counts of another pace would mean many updates without any insert, or the other way round.
@pytest.mark.parametrize("ratio", [0.5, 1.0, 40.0])
def test_another_ratio_holds_from_the_start(tmp_path: Path, ratio: float) -> None:
    setup = move(filled(), tmp_path, ratio=ratio)
    inserts = -(-8 // ratio)
    setup.fill(int(inserts) - 1)
    assert not setup.replay.wait(0.0)
    setup.fill(1)
    assert setup.replay.wait(0.0)
    setup.replay.next_batch()
    assert setup.replay.scalars()["replay_ratio"] == 8 / inserts


def test_another_warm_up_is_made_up_for(tmp_path: Path) -> None:
    setup = move(filled(), tmp_path, min_rows=20 * LENGTH)
    setup.fill(20 - 12)
    assert not setup.replay.wait(0.0)
    assert setup.replay.scalars() == {"replay_unrolls": 12.0}
    setup.fill(2)
    assert setup.replay.wait(0.0)


def edit_links(folder: Path, change: Callable[[Int64Array], Any]) -> None:
    links = np.load(folder / "links.npy")
    np.save(folder / "links.npy", change(links))


def edit_numbers(folder: Path, **changes: Any) -> None:
    numbers = json.loads((folder / "numbers.json").read_text())
    (folder / "numbers.json").write_text(json.dumps({**numbers, **changes}))


def replace_by_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=1)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# Files that are as they were written, by a program that is not this one.
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: edit_links(f, lambda links: links + 1_000), r"holds \d+ pages, links go beyond"),
        (lambda f: edit_links(f, lambda links: links + 1), r"holds \d+ pages, links go beyond"),
        (lambda f: edit_links(f, lambda links: links - 1), "pages with negative numbers"),
        (lambda f: edit_links(f, lambda links: links * 2**60), "links"),
        (lambda f: edit_links(f, lambda links: links[:, :2]), r"int64 \[2\] a row, expected int64"),
        (lambda f: edit_links(f, lambda links: links * 1.0), r"holds float64 \[3\] a row"),
        (lambda f: edit_links(f, lambda links: np.int64(3)), "holds no rows"),
        (lambda f: edit_links(f, lambda links: links[1:]), r"has 11 unrolls and 12 priorities"),
        (lambda f: np.save(f / "priorities.npy", np.ones(12)), "expected float32"),
        (lambda f: np.save(f / "rewards.npy", np.ones(5, np.float32)), "links go beyond"),
        (lambda f: np.save(f / "rewards.npy", np.array([None])), "cannot be read"),
        (lambda f: replace_by_archive(f / "links.npy"), "no rows"),
        (lambda f: (f / "links.npy").write_bytes(b""), "links.npy cannot be read"),
        (lambda f: (f / "links.npy").write_bytes(b"\x93NUMPY\x01\x00\x05\x00{'a((("), "cannot be"),
        (lambda f: replace_by_pipe(f / "links.npy"), "Not a plain file"),
        (lambda f: replace_by_pipe(f / "numbers.json"), "Not a plain file"),
        (lambda f: (f / "numbers.json").write_text("[]"), "numbers.json cannot be read"),
        (lambda f: (f / "numbers.json").write_text("[" * 9_999), "numbers.json cannot be read"),
        (lambda f: edit_numbers(f, inserted=-1), "counts that are none"),
        (lambda f: edit_numbers(f, sampled="7"), "counts that are none"),
        (lambda f: edit_numbers(f, sampled=10**40), "counts that are none"),
        (lambda f: edit_numbers(f, burn_in=None), "expected {'unroll_length'"),
    ],
)
def test_files_of_another_form_leave_the_replay_empty(
    tmp_path: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    filled().replay.save(tmp_path / "replay", lambda: None)
    spoil(tmp_path / "replay")
    other = Setup(CONFIG)
    with pytest.raises(UnfitReplay, match=reason):
        other.replay.load(tmp_path / "replay")
    assert other.replay.scalars() == {"replay_unrolls": 0.0}
    check_all(other.batches(20, **CHANCES))
    other.close()
