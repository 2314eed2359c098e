"""The page for authors of algorithms names the fields and arguments that the code has, in order."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from seed.contract import ActOutput, Fleet, LossResult
from seed.contract.answers import RESERVED_METRICS
from seed.networks.body import Body
from seed.ops.transitions import Transitions, transitions
from seed.store.rows import Rows, Unroll
from seed.wire.spaces import SpaceSpec

PAGE = (Path(__file__).parents[2] / "docs" / "writing_an_algorithm.md").read_text()
CODE: dict[str, Any] = {
    "Rows": Rows, "seed.store.rows.Unroll": Unroll, "seed.contract.Fleet": Fleet,
    "seed.contract.ActOutput": ActOutput, "seed.contract.LossResult": LossResult,
    "seed.wire.spaces.SpaceSpec": SpaceSpec, "Body.forward": Body.forward,
    "transitions": transitions,
}  # fmt: skip


def names_in_code(thing: Any) -> list[str]:
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing)]
    if hasattr(thing, "_fields"):
        return list(thing._fields)
    return [name for name in inspect.signature(thing).parameters if name != "self"]


@pytest.mark.parametrize("title", CODE)
def test_a_table_has_the_codes_names_in_order(title: str) -> None:
    table = re.search(rf"^\| `{re.escape(title)}` \| \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.M)
    assert table is not None
    assert re.findall(r"^\| `(\w+)` \|", table[1], re.M) == names_in_code(CODE[title])


def test_sentences_name_what_there_is() -> None:
    text = " ".join(PAGE.split())
    assert f"`ActOutput({', '.join(ActOutput._fields)})`" in text
    assert f".Body({', '.join(names_in_code(Body))})`" in text
    first, second, third = Transitions._fields
    assert f"returns `{first}`, `{second}` and `{third}`" in text
    first, second, third = RESERVED_METRICS
    assert f"`{first}`, `{second}` and `{third}` are taken" in text
