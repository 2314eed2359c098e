"""What documents and docstrings name is there: fields, options, files, modules, metrics."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import importlib
import importlib.util
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seed.config.schema import Config
from seed.contract.loading import load_algorithm_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [
    path
    for folder in ("seed", "envservers", "tools", "tests/fuzz")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# Of pip and TensorBoard, and what parsers of commands add by themselves.
OTHERS_OPTIONS = {"--no-deps", "--logdir", "--help", "--dry-run"}
PATH = re.compile(r"(?<![\w./-])(?:seed|envservers|configs|tests|tools|docs)/(?:[\w./-]*\w)?")
# Not the files `seed.py` and `envservers.log`. NAME, in either, stands for any name.
MODULE = re.compile(
    r"(?<![\w./-])(?:seed|envservers|tests|tools)(?!\.(?:py|log)\b)(?:\.[A-Za-z_]\w*)+"
)


def texts() -> list[Any]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]


def code_spans(text: str) -> Iterator[str]:
    """What stands between single backticks, outside of blocks."""
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))


def fields() -> set[str]:
    """All fields of the configuration as documents name them: "table.field"."""
    config = Config()
    names: set[str] = {"algorithm.name"}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names |= {f"{field.name}.{name}" for name in vars(value)}
    names |= {f"environment.atari.{name}" for name in vars(config.environment.atari)}
    for algorithm in ("vtrace", "r2d2"):
        kind = load_algorithm_config(algorithm)
        names |= {f"algorithm.{field.name}" for field in dataclasses.fields(kind)}
    return names


def top_level() -> set[str]:
    return {field.name for field in dataclasses.fields(Config)}


def literals(paths: list[Path]) -> set[str]:
    """All strings in these sources."""
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text())))
    return {node.value for node in nodes if isinstance(node, ast.Constant)
            and isinstance(node.value, str)}  # fmt: skip


@pytest.mark.parametrize("document", texts())
def test_fields_are_there(document: Path) -> None:
    known = fields()
    tables = {name.rpartition(".")[0] for name in known}
    named = {
        f"{table}.{field}"
        for span in code_spans(document.read_text())
        for table, field in re.findall(r"(?<![\w./-])([a-z_.]+)\.([a-z_0-9]+)(?![\w.(/*])", span)
        if table in tables and field != "py"
    }
    assert named - known == set()


@pytest.mark.parametrize("document", texts())
def test_examples_of_configurations_are_taken(document: Path) -> None:
    known, top = fields(), top_level()
    for block in re.findall(r"```toml\n(.*?)```", document.read_text(), flags=re.S):
        for table, values in tomllib.loads(block).items():
            assert table in top
            for name in values if isinstance(values, dict) else ():
                # Another algorithm than those that ship has fields of its own.
                assert f"{table}.{name}" in known or table == "algorithm"


@pytest.mark.parametrize("document", texts())
def test_options_are_there(document: Path) -> None:
    flags = {f"--{name.replace('_', '-')}" for name in fields() | top_level()}
    known = flags | literals(SOURCES) | OTHERS_OPTIONS
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", document.read_text()))
    assert named - known == set()


def absent(text: str) -> list[str]:
    """The paths, the modules and what is said to be in modules, where there is no such thing."""
    paths = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    names = [name for name in MODULE.findall(text) if not is_in_code(name.split("."))]
    return [name for name in paths + names if "NAME" not in name]


def is_in_code(parts: list[str]) -> bool:
    """Whether this is a module, or something in one: `seed.store.rows.Unroll`."""
    for end, part in enumerate(parts[1:], start=1):
        package = ".".join(parts[:end])
        try:
            spec = importlib.util.find_spec(f"{package}.{part}")
        except ModuleNotFoundError:  # What should hold it is a module and no package.
            spec = None
        if spec is None:
            return hasattr(importlib.import_module(package), part)
    return True


@pytest.mark.parametrize("document", texts())
def test_files_and_modules_are_there(document: Path) -> None:
    text = document.read_text()
    files = {path.name for folder in ("seed", "envservers", "tests", "tools")
             for path in (ROOT / folder).rglob("*.py")}  # fmt: skip
    mentioned = {span for span in code_spans(text) if re.fullmatch(r"test_\w+\.py", span)}
    assert absent(text) + sorted(mentioned - files) == []


@pytest.mark.parametrize("folder", ["seed", "envservers", "tools", "tests", "configs"])
def test_docstrings_and_comments_name_what_is_there(folder: str) -> None:
    missing = {
        str(path.relative_to(ROOT)): names
        for path in sorted((ROOT / folder).rglob("*.*"))
        if path.suffix in (".py", ".toml") and (names := absent(prose(path)))
    }
    assert missing == {}


def prose(path: Path) -> str:
    """A source's docstrings and comments; all of a configuration."""
    if path.suffix == ".toml":
        return path.read_text()
    with path.open("rb") as source:
        tokens = list(tokenize.tokenize(source.readline))
    return "\n".join(
        token.string for token in tokens if token.type == tokenize.COMMENT
        or (token.type == tokenize.STRING and token.string.startswith(('"""', 'r"""')))
    )  # fmt: skip


def test_the_tour_names_what_is_in_the_code() -> None:
    sources = [path.read_text() for folder in ("seed", "envservers")
               for path in (ROOT / folder).rglob("*.py")]  # fmt: skip
    words = set(re.findall(r"\w+", "\n".join(sources)))
    spans = set(code_spans((ROOT / "docs/tour.md").read_text()))
    named = {word for span in spans if re.fullmatch(r"[\w.]+", span) and not (ROOT / span).exists()
             for word in span.removesuffix(".py").split(".")}  # fmt: skip
    assert named - words - {path.stem for path in SOURCES} == set()


def test_the_glossary_has_no_word_that_the_code_has_lost() -> None:
    code = "\n".join(path.read_text() for path in SOURCES).lower()
    rows = re.findall(r"^\| (?!word)(\S.*?) \|", (ROOT / "docs/glossary.md").read_text(), re.M)
    words = [word.strip("`*").lower() for row in rows for word in row.split(", ")]
    assert [word for word in words if not re.search(re.sub("[ -]", r"[\\s_-]+", word), code)] == []


def test_the_tours_order_of_imports_is_the_one_that_is_checked() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    layers = "".join(settings[f"importlinter:contract:{contract}"]["layers"]
                     for contract in ("layers", "server-layers"))  # fmt: skip
    (block,) = re.findall(r"```\n(seed: .*?)```", (ROOT / "docs/tour.md").read_text(), re.S)
    order = [re.sub(r"^\w+:", "", line).strip() for line in block.splitlines()]
    assert [layer for layer in order if layer] == layers.strip().split("\n")


@pytest.mark.parametrize("document", texts())
def test_links_lead_somewhere(document: Path) -> None:
    missing: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        name, _, heading = target.partition("#")
        if "://" in target:
            continue
        path = document.parent / name if name else document
        if not path.exists() or (heading and heading not in headings(path)):
            missing.append(target)
    assert missing == []


def headings(document: Path) -> set[str]:
    """The names that links to a document's headings have."""
    lines = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("document", texts())
def test_commands_of_modules_are_there(document: Path) -> None:
    own = r"python -m ((?:tools|tests|seed|envservers)\b[\w.]*)"
    for module in re.findall(own, document.read_text()):
        assert importlib.util.find_spec(module.rstrip(".")) is not None, module


def test_every_field_of_a_line_of_metrics_is_explained_and_no_other() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/metrics.md").read_text(), flags=re.M)
    explained = {name for row in rows for name in re.findall(r"`([a-z0-9_*]+)`", row)}
    window = ast.parse((ROOT / "seed/run/metrics.py").read_text())
    written = {
        key.value for node in ast.walk(window) if isinstance(node, ast.Dict)
        for key in node.keys if isinstance(key, ast.Constant) and "_" in str(key.value)
    }  # fmt: skip
    assert {name for name in written if isinstance(name, str)} - explained - {
        "inference", "learner"} == set()  # fmt: skip
    made = literals(sorted((ROOT / "seed").rglob("*.py")))
    assert {name for name in explained if not name.endswith("_share_*")} - made == set()
