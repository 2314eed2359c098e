"""The commands' entry points: where packages are missing, and where they are interrupted."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from seed import __main__


@pytest.mark.parametrize("entry", [__main__.learner, __main__.evaluation])
def test_a_missing_package_is_named_with_its_remedy(
    entry: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _miss(monkeypatch, "torch")
    assert entry() == 2
    message = capsys.readouterr().err
    assert "torch is not installed" in message
    assert 'pip install "seed-rl[learner]"' in message
    assert message.count("\n") == 1


def test_other_missing_modules_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    _miss(monkeypatch, "no_such_module_of_ours")
    with pytest.raises(ModuleNotFoundError):
        __main__.learner()


@pytest.mark.parametrize(
    ("entry", "command"),
    [(__main__.learner, "seed.main.main"), (__main__.evaluation, "seed.evaluate.main")],
)
def test_an_interrupt_has_its_exit_code_and_no_traceback(
    entry: Any, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, interrupted)
    assert entry() == 130
    assert capsys.readouterr() == ("", "")


def _miss(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes the import of the commands fail as if this module were not there."""
    original = builtins.__import__

    def fail(module: str, *arguments: Any, **named: Any) -> Any:
        if module in ("seed.main", "seed.evaluate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", fail)
