"""How an algorithm is found, and what is said of one that is not or not whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seed.algorithms.vtrace import Config
from seed.config.schema import ConfigError
from seed.contract.loading import (
    load_algorithm,
    load_algorithm_config,
    optional_initial_priorities,
    optional_update_target,
)

NAMES = ("Config", "DATA_SOURCE", "make_agent", "act", "loss")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write_module(folder: Path, package: str, names: tuple[str, ...]) -> str:
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("")
    (folder / package / "algorithm.py").write_text(text_of(names))
    return f"{package}.algorithm"


def text_of(names: tuple[str, ...] = NAMES, source: str = "queue") -> str:
    """A module's text with these names in it."""
    values = {**dict.fromkeys(names, "int"), "DATA_SOURCE": repr(source)}
    return "".join(f"{name} = {values[name]}\n" for name in names)


def test_a_name_is_a_file_of_this_package() -> None:
    assert load_algorithm("vtrace").Config is Config
    assert load_algorithm("seed.algorithms.vtrace") is load_algorithm("vtrace")
    assert load_algorithm_config("vtrace") is Config


def test_an_import_path_is_any_module(folder: Path) -> None:
    path = write_module(folder, "contract_whole", NAMES)
    algorithm = load_algorithm(path)
    assert algorithm.__name__ == path  # type: ignore[attr-defined]
    assert load_algorithm_config(path) is int


def test_a_name_may_be_a_module_of_its_own(folder: Path) -> None:
    (folder / "contract_alone.py").write_text(text_of())
    assert load_algorithm("contract_alone").__name__ == "contract_alone"  # type: ignore[attr-defined]


def test_this_package_comes_before_other_modules(folder: Path) -> None:
    (folder / "vtrace.py").write_text(text_of())
    assert load_algorithm("vtrace").Config is Config


@pytest.mark.parametrize("source", ["queue", "replay"])
def test_batches_come_from_the_queue_or_from_replay(folder: Path, source: str) -> None:
    (folder / f"contract_from_{source}.py").write_text(text_of(source=source))
    assert source == load_algorithm(f"contract_from_{source}").DATA_SOURCE


@pytest.mark.parametrize("source", ["Replay", "Queue", ""])
def test_refuses_an_unknown_source_of_data(folder: Path, source: str) -> None:
    name = f"contract_source_{source}"
    (folder / f"{name}.py").write_text(text_of(source=source))
    with pytest.raises(ConfigError, match=f"DATA_SOURCE = '{source}', expected 'queue' or 're"):
        load_algorithm(name)


def test_a_target_network_and_initial_priorities_may_be_left_out(folder: Path) -> None:
    (folder / "contract_optional.py").write_text(text_of())
    without = load_algorithm("contract_optional")
    assert optional_update_target(without) is None
    assert optional_initial_priorities(without) is None
    r2d2: Any = load_algorithm("r2d2")
    assert optional_update_target(r2d2) is r2d2.update_target
    assert optional_initial_priorities(r2d2) is r2d2.initial_priorities


@pytest.mark.parametrize("missing", NAMES)
def test_says_what_a_module_lacks(folder: Path, missing: str) -> None:
    names = tuple(name for name in NAMES if name != missing)
    path = write_module(folder, f"contract_without_{missing.lower()}", names)
    with pytest.raises(ConfigError, match=f"^algorithm.name = '{path}': {path} lacks {missing}$"):
        load_algorithm(path)


@pytest.mark.parametrize(
    "name", ["nosuch", "no.such.module", "seed.nosuch", "", ".", "..vtrace", "a b", "vtrace.x"]
)
def test_says_where_it_looked_in_vain(name: str) -> None:
    with pytest.raises(ConfigError, match="that name; expected one of r2d2, vtrace, or the import"):
        load_algorithm(name)


def test_another_module_is_no_algorithm() -> None:
    with pytest.raises(ConfigError, match=r"seed\.wire\.codec lacks Config"):
        load_algorithm("seed.wire.codec")


# An error within a user's file must show its own traceback.
def test_a_broken_module_is_not_called_missing(folder: Path) -> None:
    path = write_module(folder, "contract_broken", NAMES)
    (folder / "contract_broken" / "algorithm.py").write_text("import nosuch_dependency")
    with pytest.raises(ModuleNotFoundError, match="nosuch_dependency"):
        load_algorithm(path)


def test_a_broken_package_is_not_called_missing(folder: Path) -> None:
    path = write_module(folder, "contract_broken_package", NAMES)
    (folder / "contract_broken_package" / "__init__.py").write_text("import nosuch_dependency")
    with pytest.raises(ModuleNotFoundError, match="nosuch_dependency"):
        load_algorithm(path)


def test_what_a_module_prints_is_no_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "contract_loud.py").write_text('print("hello")\n' + text_of())
    load_algorithm("contract_loud")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_module_that_is_a_program_is_refused(folder: Path) -> None:
    (folder / "contract_program.py").write_text('raise SystemExit("usage: ...")')
    with pytest.raises(ConfigError, match=r"contract_program ends the process .*usage: \.\.\."):
        load_algorithm("contract_program")
