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


_NUMPY_LOAD_SAFE_ARGUMENTS = 2


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute; `?.c` where it hangs on an expression."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Modules by the names under which a file imports them."""
    return {
        each.asname: each.name
        for node in ast.walk(tree) if isinstance(node, ast.Import)
        for each in node.names if each.asname
    }  # fmt: skip


def _constant(call: ast.Call, keyword: str) -> object:
    return next(
        (each.value.value for each in call.keywords
         if each.arg == keyword and isinstance(each.value, ast.Constant)),
        None,
    )  # fmt: skip


def _forbidden_call(call: ast.Call, aliases: dict[str, str]) -> str | None:
    first, dot, rest = _dotted(call.func).partition(".")
    name = aliases.get(first, first) + dot + rest
    last = name.rpartition(".")[2]
    # A method called eval is a module's; the function compiles text.
    if last in METHODS and (name == last or last not in ("eval", "exec")):
        return name
    if last == "load" and name.startswith("torch.") and _constant(call, "weights_only") is not True:
        return f"{name} without weights_only=True"
    if last == "load" and name.startswith(("yaml.", "joblib.")):
        return name
    pickles = any(each.arg == "allow_pickle" for each in call.keywords)
    if pickles and _constant(call, "allow_pickle") is not False:
        return f"{name} with allow_pickle"
    # numpy.load(file, mmap_mode, allow_pickle)
    if name in ("np.load", "numpy.load") and len(call.args) > _NUMPY_LOAD_SAFE_ARGUMENTS:
        return f"{name} with a third argument"
    return None


def forbidden(source: str) -> Iterator[str]:
    """What a source text does that could run code out of data."""
    tree = ast.parse(source)
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        modules: list[str] = []
        if not isinstance(node, ast.stmt | ast.expr):
            continue
        if isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(each.name for each in node.names)]
            if modules[0].split(".")[0] == "torch" and "load" in modules:
                yield f"line {node.lineno}: torch.load under another name"
        elif isinstance(node, ast.Call):
            call = _forbidden_call(node, aliases)
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
        "from torch.serialization import load",
        "import torch as t\nt.load(path)",
        "import torch.serialization as s\ns.load(path)",
        "np.load(path, None, True)",
        "import numpy as n\nn.load(path, None, True)",
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
    saying = [path for path in _shipped_texts() if "insecure" in path.read_text()]
    assert saying == [ROOT / "seed/config/checks.py", ROOT / "seed/config/schema.py"]


def _shipped_texts() -> list[Path]:
    """All that users run or start something with, manifests and launchers of any folder too."""
    places = [
        path for path in ROOT.iterdir()
        if path.name not in ("docs", "tests", "runs", "build", "dist") and path.suffix != ".md"
        and path.suffix != ".egg-info" and not path.name.startswith(".")
    ]  # fmt: skip
    files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
    return sorted(file for file in files if file.suffix not in (".pyc", ".png", ".so"))
