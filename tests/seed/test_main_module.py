"""The commands' entry points: where packages are missing, and where they are interrupted."""

from __future__ import annotations

import builtins
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from seed import __main__, __version__
from seed.process.signals import SIGNALS, Signals


@pytest.fixture(autouse=True)
def process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives the process its signal handlers back, and leaves its output alone."""
    monkeypatch.setattr(__main__, "keep_stdout_for_results", lambda: None)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("entry", [__main__.learner, __main__.evaluation])
def test_a_missing_package_is_named_with_its_remedy(
    entry: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _miss(monkeypatch, "torch")
    assert entry() == 2
    message = capsys.readouterr().err
    assert "torch is not installed" in message
    assert 'pip install ".[learner]" in a checkout' in message
    assert 'pip install "seed-rl[learner]" from a package index' in message
    assert message.count("\n") == 1


# Within milliseconds, and where the central side is not installed.
@pytest.mark.parametrize(
    ("entry", "command"),
    [(__main__.learner, "seed-learner"), (__main__.evaluation, "seed-eval")],
)
def test_a_version_needs_nothing_else(
    entry: Any, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _miss(monkeypatch, "torch")
    monkeypatch.setattr(sys, "argv", [command, "--version"])
    assert entry() == 0
    assert capsys.readouterr().out == f"{command} {__version__}\n"


def test_other_missing_modules_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    _miss(monkeypatch, "no_such_module_of_ours")
    with pytest.raises(ModuleNotFoundError):
        __main__.learner()


def test_an_interrupted_evaluation_has_its_exit_code_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("seed.run.evaluate.main", interrupted)
    assert __main__.evaluation() == 130
    assert capsys.readouterr() == ("", "")


def test_the_learner_takes_signals_over_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def note(*, signals: Signals) -> int:
        assert signal.getsignal(signal.SIGTERM) == signals._ask
        return 5

    monkeypatch.setattr("seed.run.main.main", note)
    assert __main__.learner() == 5
    # The exit code is decided: nothing may change it while the interpreter ends.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def _miss(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes the import of the commands fail as if this module were not there."""
    original = builtins.__import__

    def fail(module: str, *arguments: Any, **named: Any) -> Any:
        if module in ("seed.run.main", "seed.run.evaluate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", fail)
