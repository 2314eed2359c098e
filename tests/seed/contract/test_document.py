"""The page for authors of algorithms names the fields and arguments that the code has, in order."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import seed.contract
from seed.contract import (
    ActorCritic,
    ActorCriticOutput,
    ActOutput,
    Body,
    Categorical,
    DiagonalGaussian,
    DuelingHead,
    Fleet,
    Group,
    LossResult,
    Passes,
    Rows,
    SpaceSpec,
    Unroll,
)
from seed.contract.answers import RESERVED_METRICS
from seed.ops.gae import gae
from seed.ops.reward_shaping import shape_rewards
from seed.ops.transitions import Transitions, transitions

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "writing_an_algorithm.md").read_text()
CODE: dict[str, Any] = {
    "Rows": Rows, "seed.contract.Unroll": Unroll, "seed.contract.Fleet": Fleet,
    "seed.contract.ActOutput": ActOutput, "seed.contract.LossResult": LossResult,
    "seed.contract.Passes": Passes, "seed.contract.Group": Group,
    "seed.contract.SpaceSpec": SpaceSpec, "Body.forward": Body.forward,
    "transitions": transitions, "gae": gae, "shape_rewards": shape_rewards,
    "ActorCritic.forward": ActorCritic.forward,
    "seed.contract.ActorCriticOutput": ActorCriticOutput,
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
    for part in (ActorCritic, Body, DuelingHead):
        assert f"`seed.contract.{part.__name__}({', '.join(names_in_code(part))})`" in text
    first, second, third = Transitions._fields
    assert f"returns `{first}`, `{second}` and `{third}`" in text
    first, second, third = RESERVED_METRICS
    assert f"`{first}`, `{second}` and `{third}` are taken" in text


@pytest.mark.parametrize("policy", [Categorical, DiagonalGaussian])
def test_the_table_of_policies_has_what_both_can(policy: Any) -> None:
    (table,) = re.findall(r"^\| policy \| \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.M)
    calls = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", table, re.M))
    methods = {name for name in vars(policy) if not name.startswith("_")}
    assert set(calls) == methods
    for name, arguments in calls.items():
        given = [each for each in names_in_code(getattr(policy, name)) if each != "generator"]
        assert arguments == ", ".join(given)


def test_the_page_uses_only_what_stays_stable() -> None:
    used = set(re.findall(r"\bseed\.contract\.(\w+)", PAGE))
    assert used
    assert used <= set(seed.contract.__all__)
    assert not re.search(r"\bseed\.(?!contract|ops|algorithms)[a-z]+\.", PAGE)
    assert all(hasattr(seed.contract, name) for name in seed.contract.__all__)


def test_all_that_the_contract_hands_out_stays_stable() -> None:
    own = {name: thing for name, thing in vars(seed.contract).items() if name[0] != "_"}
    of_seed = {name for name, thing in own.items() if _home(thing).startswith("seed.")}
    assert of_seed == set(seed.contract.__all__)


def _home(thing: Any) -> str:
    return str(getattr(thing, "__module__", ""))


@pytest.mark.parametrize(
    "path",
    ["tests/outside/reinforce.py", "tests/outside/checker.py", "tools/bench/null_algorithm.py"],
)
def test_an_authors_module_needs_no_more_of_seed(path: str) -> None:
    imports = [
        node for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("seed.")
    ]  # fmt: skip
    assert {str(node.module).split(".")[1] for node in imports} <= {"contract", "ops"}
    taken = {name.name for node in imports if node.module == "seed.contract" for name in node.names}
    assert taken <= set(seed.contract.__all__)
