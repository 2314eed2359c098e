"""The replay's part of a checkpoint: rows of the store, column by column, as plain NumPy files.

They can be far larger than all else in a checkpoint, so they are copied in pieces: nothing is ever
in memory twice.
"""

from __future__ import annotations

import os
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed.process.plain_files import open_plain
from seed.store.layout import SPARE_ROWS
from seed.store.pages import NO_PAGE
from seed.store.unrolls import UnrollStore
from seed.wire.arrays import Int64Array

_PIECE_BYTES = 64 * 2**20
# What waits in memory for a slow disk, at most: waiting for all of it at the end could take longer
# than the watchdog does.
_UNSYNCED_BYTES = 4 * _PIECE_BYTES


# What files of any content make NumPy raise.
_UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, KeyError, SyntaxError, tokenize.TokenError,
    OverflowError, MemoryError, RecursionError,
)  # fmt: skip


class UnfitReplay(Exception):
    """Files that this store cannot go on with; the text says why."""


def count_pages(links: Int64Array) -> int:
    """Pages that unrolls with these links `[n, 3] int64` need together."""
    return len(np.unique(links[links != NO_PAGE]))


def write_pages(
    folder: Path, store: UnrollStore, links: Int64Array, sign: Callable[[], None]
) -> Int64Array:
    """Writes every page that unrolls with these links need into a folder, a file per column.

    Args:
        folder: Where the files go.
        store: Whose pages they are.
        links: Predecessor, page and successor of each unroll. `[n, 3] int64`
        sign: Called after every piece.

    Returns:
        The same links as positions among the pages written; NO_PAGE as it is. `[n, 3] int64`
    """
    pages = np.unique(links[links != NO_PAGE])
    for name, column in store.columns.items():
        _write_column(_file_of(folder, name), column, _rows_of(store, column, pages), sign)
    return np.where(links == NO_PAGE, NO_PAGE, np.searchsorted(pages, links))


def read_pages(folder: Path, store: UnrollStore, links: Int64Array) -> Int64Array:
    """Puts what `write_pages` wrote into free pages of a store that nobody uses yet.

    Args:
        folder: Where the files are.
        store: Gets the pages; it keeps them until the unrolls are released.
        links: As `write_pages` returned them. `[n, 3] int64`

    Returns:
        The links in this store. `[n, 3] int64`

    Raises:
        UnfitReplay: where the files are not there or of another form.
    """
    positions, uses = np.unique(links[links != NO_PAGE], return_counts=True)
    files = {
        name: _open_column(_file_of(folder, name), column)
        for name, column in store.columns.items()
    }
    for name, column in store.columns.items():
        count = len(files[name]) // _rows_of_page(store, column)
        if positions.max(initial=-1) >= count:
            raise UnfitReplay(f"{_file_of(folder, name)} holds {count} pages, links go beyond")
    pages = store.reserve(uses)
    for name, column in store.columns.items():
        source = _rows_of(store, column, positions).cpu()
        for start, piece in _pieces(column, _rows_of(store, column, pages)):
            taken = np.array(files[name][source[start : start + len(piece)].numpy()])
            column.index_copy_(0, piece, torch.from_numpy(taken).to(column.device))
    place = np.zeros(positions.max(initial=0) + 1, np.int64)
    place[positions] = pages
    return np.where(links == NO_PAGE, NO_PAGE, place[links])


def read_links(path: Path) -> Int64Array:
    """Links that `write_pages` returned and that were saved; raises UnfitReplay. `[n, 3] int64`"""
    links = open_array(path, np.dtype(np.int64), (3,))
    # Only a history's first page has none before it.
    if (links < [NO_PAGE, 0, 0]).any():
        raise UnfitReplay(f"{path} holds links to pages with negative numbers")
    return np.array(links)


def open_array(path: Path, dtype: np.dtype[Any], row: tuple[int, ...]) -> npt.NDArray[Any]:
    """An array `[n, *row]` in a file, mapped into memory; raises UnfitReplay for anything else."""
    try:
        with open_plain(path):
            file: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        raise UnfitReplay(f"{path} cannot be read ({error})") from None
    if not isinstance(file, np.ndarray) or not file.ndim:
        raise UnfitReplay(f"{path} holds no rows")
    if file.shape[1:] != row or file.dtype != dtype:
        raise UnfitReplay(
            f"{path} holds {file.dtype} {list(file.shape[1:])} a row, expected {dtype} {list(row)}"
        )
    return file


def _file_of(folder: Path, column: str) -> Path:
    """A column's file; observations of several parts have columns with "/" in their names."""
    return folder / f"{column.replace('/', '%2F')}.npy"


def _rows_of_page(store: UnrollStore, column: Tensor) -> int:
    """Recurrent states have one row per page, all else one per step."""
    return (len(column) - SPARE_ROWS) // store.layout.num_pages


def _rows_of(store: UnrollStore, column: Tensor, pages: Int64Array) -> Tensor:
    """Indices of all rows of these pages in a column, `[n] int64` on the column's device."""
    length = _rows_of_page(store, column)
    rows = pages[:, None] * length + np.arange(length)
    return torch.from_numpy(rows.reshape(-1)).to(column.device)


def _numpy_dtype(column: Tensor) -> np.dtype[Any]:
    return np.dtype(str(column.dtype).removeprefix("torch."))


def _write_column(
    path: Path, column: Tensor, rows: Tensor, sign: Callable[[], None]
) -> None:
    form = {
        "descr": np.lib.format.dtype_to_descr(_numpy_dtype(column)),
        "fortran_order": False,
        "shape": (len(rows), *column.shape[1:]),
    }
    # Not mapped into memory, where a full disk would end the process without a word.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, form)
        unsynced_bytes = 0
        for _, piece in _pieces(column, rows):
            unsynced_bytes += file.write(column.index_select(0, piece).cpu().numpy().data)
            sign()
            if unsynced_bytes >= _UNSYNCED_BYTES:
                file.flush()
                os.fsync(file.fileno())
                unsynced_bytes = 0
                sign()


def _open_column(path: Path, column: Tensor) -> npt.NDArray[Any]:
    return open_array(path, _numpy_dtype(column), tuple(column.shape[1:]))


def _pieces(column: Tensor, rows: Tensor) -> list[tuple[int, Tensor]]:
    """The rows in pieces of bounded size, each with its place among all."""
    row_nbytes = max(1, column[:1].nbytes)
    length = max(1, _PIECE_BYTES // row_nbytes)
    return [(start, rows[start : start + length]) for start in range(0, len(rows), length)]
