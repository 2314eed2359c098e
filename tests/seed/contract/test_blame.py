"""One line about what an author's function has raised."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seed.config.schema import ConfigError
from seed.contract.blame import refusing, whose

TEXT = """
def loss(*arguments):
    return helper()


def helper():
    {deed}
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Makes a module whose `loss` does a deed, in its line 7."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(deed: str) -> Any:
        name = f"contract_blame_{abs(hash(request.node.name))}"
        (tmp_path / f"{name}.py").write_text(TEXT.format(deed=deed))
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("{}['x']", "KeyError: 'x'"),
        ("raise ValueError('two\\nlines')", "ValueError: two"),
        ("import torch; torch.ones(2) @ torch.ones(3)", "RuntimeError: inconsistent tensor size"),
        ("assert False", "AssertionError at"),
        ("raise ValueError('x' * 1000)", "ValueError: xxxxx"),
    ],
)
def test_one_line_says_whose_and_where(load: Any, deed: str, said: str) -> None:
    module = load(deed)
    with pytest.raises(ConfigError) as refused, refusing(module, "mine", "loss"):
        module.loss()
    line = str(refused.value)
    assert line.startswith(f"algorithm.name = 'mine': loss raises {said[:20]}")
    assert said in line
    assert line.endswith(f" at {module.__file__}:7")
    assert line.count("\n") == 0
    # Later, under way, the same line stands before the traceback.
    error = refused.value.__cause__
    assert error is not None
    assert whose(error, module, "mine") == line
    assert whose(error, SimpleNamespace(), "mine") == ""


@pytest.mark.parametrize("error", [ConfigError("a wish"), torch.OutOfMemoryError("too much")])
def test_what_has_a_reason_of_its_own_goes_on(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), refusing(None, "mine", "loss"):
        raise error


def test_a_function_of_another_file_is_found_too(load: Any) -> None:
    module = load("1 / 0")
    with pytest.raises(ConfigError) as refused, refusing(SimpleNamespace(), "mine", "act"):
        module.loss()
    assert f"act raises ZeroDivisionError: division by zero at {__file__}:" in str(refused.value)


def test_an_error_of_ours_is_nobody_elses() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        math.nan // 0
    assert whose(raised.value, SimpleNamespace(__file__="/elsewhere.py"), "mine") == ""
