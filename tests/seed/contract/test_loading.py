"""How an algorithm is found, and what is said of one that is not or not whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from seed.algorithms.vtrace import Config
from seed.config.schema import ConfigError
from seed.contract.loading import (
    acting_part,
    load_algorithm,
    load_algorithm_config,
    optional_acting_part,
    optional_after_batch,
    optional_groups,
    optional_initial_priorities,
    optional_lockstep,
    optional_passes,
    optional_prepare,
    optional_update_target,
)

VALUES = {
    "Config": "int", "DATA_SOURCE": "'queue'", "make_agent": "int", "act": "int", "loss": "int",
}  # fmt: skip


def text_of(**changes: str | None) -> str:
    """A module's text with the names that it must have, and others; None leaves one out."""
    values = {**VALUES, **changes}
    return "".join(f"{name} = {value}\n" for name, value in values.items() if value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write_package(folder: Path, name: str, init: str, algorithm: str) -> str:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(init)
    (folder / name / "algorithm.py").write_text(algorithm)
    return f"{name}.algorithm"


def test_a_name_is_a_file_of_this_package_before_any_other_module(folder: Path) -> None:
    (folder / "vtrace.py").write_text(text_of())
    assert load_algorithm("vtrace").Config is load_algorithm_config("vtrace") is Config
    assert load_algorithm("seed.algorithms.vtrace") is load_algorithm("vtrace")


def test_an_import_path_is_any_module(folder: Path) -> None:
    path = write_package(folder, "contract_whole", "", text_of())
    (folder / "contract_alone.py").write_text(text_of(DATA_SOURCE="'replay'"))
    assert load_algorithm(path).__name__ == path  # type: ignore[attr-defined]
    assert load_algorithm_config(path) is int
    assert load_algorithm(path).DATA_SOURCE == "queue"
    assert load_algorithm("contract_alone").DATA_SOURCE == "replay"


OPTIONAL = {
    "update_target": optional_update_target, "initial_priorities": optional_initial_priorities,
    "prepare": optional_prepare, "passes": optional_passes, "groups": optional_groups,
    "after_batch": optional_after_batch, "acting_part": optional_acting_part,
}  # fmt: skip


def test_what_is_optional_may_be_left_out(folder: Path) -> None:
    (folder / "contract_required.py").write_text(text_of())
    without, agent = load_algorithm("contract_required"), nn.Linear(1, 1)
    assert [find(without) for find in OPTIONAL.values()] == [None] * len(OPTIONAL)
    assert not optional_lockstep(without)
    assert acting_part(without, agent) is agent
    whole = text_of(**dict.fromkeys(OPTIONAL, "lambda *_: 7"), LOCKSTEP="True")
    (folder / "contract_optional.py").write_text(whole)
    module: Any = load_algorithm("contract_optional")
    assert [find(module) for find in OPTIONAL.values()] == [vars(module)[name] for name in OPTIONAL]
    assert optional_lockstep(module)
    assert acting_part(module, agent) == 7  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text_of(**{name: None}), f"lacks {name}$") for name in VALUES),
        (text_of(Config=None, act=None), "lacks Config, act$"),
        *((text_of(DATA_SOURCE=f"'{source}'"), f"DATA_SOURCE = '{source}', expected 'queue' or 're")
          for source in ("Replay", "Queue", "")),
        *((text_of(**{name: "3"}), f"{name} is a int, expected a function$") for name in OPTIONAL),
        (text_of(LOCKSTEP="1"), "LOCKSTEP = 1, expected True or False$"),
        ('raise SystemExit("usage: ...")', r"ends the process .*usage: \.\.\."),
    ],
)  # fmt: skip
def test_says_what_is_wrong_with_a_module(
    folder: Path, request: pytest.FixtureRequest, text: str, words: str
) -> None:
    name = f"contract_wrong_{abs(hash(request.node.name))}"
    (folder / f"{name}.py").write_text(text)
    with pytest.raises(ConfigError, match=f"^algorithm.name = '{name}': .*{words}"):
        load_algorithm(name)


@pytest.mark.parametrize(
    "name", ["nosuch", "no.such.module", "seed.nosuch", "", ".", "..vtrace", "a b", "vtrace.x"]
)
def test_says_where_it_looked_in_vain(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name; expected one of (\w+, )+vtrace, or the import"):
        load_algorithm(name)


# An error within a user's file must show its own traceback.
@pytest.mark.parametrize("broken", [0, 1])
def test_a_broken_module_is_not_called_missing(folder: Path, broken: int) -> None:
    texts = ["", text_of()]
    texts[broken] = "import nosuch_dependency"
    path = write_package(folder, f"contract_broken_{broken}", *texts)
    with pytest.raises(ModuleNotFoundError, match="nosuch_dependency"):
        load_algorithm(path)


def test_what_a_module_prints_is_no_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "contract_loud.py").write_text('print("hello")\n' + text_of())
    load_algorithm("contract_loud")
    assert capsys.readouterr() == ("", "hello\n")
