"""What nothing that is shipped may do, found in the syntax of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path for folder in ("seed", "envservers", "tools") for path in
                 (ROOT / folder).rglob("*.py"))  # fmt: skip
UNPICKLERS = {
    "pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib",
    "msgpack_numpy", "jsonpickle",
}  # fmt: skip
METHODS = {
    "recv_pyobj", "send_pyobj", "recv_serialized", "send_serialized", "unsafe_load", "full_load",
    "read_pickle", "to_pickle", "load_module", "eval", "exec", "__import__",
}  # fmt: skip


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute; `?.c` where it hangs on an expression."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _constant(call: ast.Call, keyword: str) -> object:
    return next(
        (each.value.value for each in call.keywords
         if each.arg == keyword and isinstance(each.value, ast.Constant)),
        None,
    )  # fmt: skip


def _forbidden_call(call: ast.Call) -> str | None:
    name = _dotted(call.func)
    last = name.rpartition(".")[2]
    # A method called eval is a module's; the function compiles text.
    if last in METHODS and (name == last or last not in ("eval", "exec")):
        return name
    if name == "torch.load" and _constant(call, "weights_only") is not True:
        return f"{name} without weights_only=True"
    if last == "load" and name.startswith(("yaml.", "joblib.")):
        return name
    pickles = any(each.arg == "allow_pickle" for each in call.keywords)
    if pickles and _constant(call, "allow_pickle") is not False:
        return f"{name} with allow_pickle"
    return None


def forbidden(source: str) -> Iterator[str]:
    """What a source text does that could run code out of data."""
    for node in ast.walk(ast.parse(source)):
        modules: list[str] = []
        if not isinstance(node, ast.stmt | ast.expr):
            continue
        if isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(each.name for each in node.names)]
            if node.module == "torch" and "load" in modules:
                yield f"line {node.lineno}: torch.load under another name"
        elif isinstance(node, ast.Call):
            call = _forbidden_call(node)
            if call:
                yield f"line {node.lineno}: {call}"
            # importlib.import_module("pickle"), say
            constants = [each.value for each in node.args if isinstance(each, ast.Constant)]
            modules = [each for each in constants if isinstance(each, str)]
        yield from (
            f"line {node.lineno}: {each}" for each in modules if each.split(".")[0] in UNPICKLERS
        )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    assert list(forbidden(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import a, marshal as m",
        "from multiprocessing import dill",
        "importlib.import_module('cloudpickle')",
        "__import__('pick' + 'le')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "socket.recv_pyobj()",
        "self.socket.send_pyobj(x)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert list(forbidden(source))


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "make().eval()", "np.load(path)", "load(path)",
     "checkpoint.load(path)", "np.load(path, allow_pickle=False)", "import json"],
)  # fmt: skip
def test_the_search_leaves_alone(source: str) -> None:
    assert not list(forbidden(source))


def test_nothing_shipped_does_without_keys_in_the_open() -> None:
    """No configuration, tool or build file says insecure_no_auth; users may, for themselves."""
    shipped = [*SHIPPED, *ROOT.glob("configs/*"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    saying = [path for path in shipped if "insecure" in path.read_text()]
    assert saying == [ROOT / "seed" / "config.py"]
