"""From a TOML file and the command line to a checked `Config`, and back to TOML."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
import tyro

from seed.config.checks import check
from seed.config.field_names import describe, hints_of, meant, names_of
from seed.config.refused_options import refusal
from seed.config.schema import Config, ConfigError
from seed.process.module_folders import module_folders, search
from seed.process.plain_files import read_plain
from seed.process.quoting import quote

# Far more than any configuration needs.
_MOST_TOML_BYTES = 2**20
_DEEPEST = 16

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """What `seed-learner` was asked to do."""

    config_file: Path
    dry_run: bool
    config: Config


def parse_command_line(arguments: Sequence[str], load_algorithm_config: Any) -> CommandLine:
    """Reads `CONFIG [overrides]`; overrides win over the file, the file over the defaults.

    Args:
        arguments: The command line without the program's name.
        load_algorithm_config: From an algorithm's name to its configuration dataclass; called
            once it is known which algorithm it is.

    Raises:
        ConfigError: for a file or value that cannot be used.
        SystemExit: with code 0, after help was printed.
    """
    config_file = next((Path(word) for word in arguments if word.endswith(".toml")), None)
    if config_file is None and _is_missing(arguments):
        raise ConfigError(f"CONFIG: expected the run's TOML file, as in {_examples()}")
    if config_file is not None and not config_file.exists():
        raise ConfigError(f"{config_file}: there is no such file{_hint_of_file(config_file)}")
    tables = read_toml(config_file) if config_file else {}
    search_module_folders(tables, config_file)
    arguments, algorithm_name = _take_option(arguments, "--algorithm.name")
    if algorithm_name is not None:
        tables["algorithm"] = {**tables.get("algorithm", {}), "name": algorithm_name}
    default = from_tables(tables, load_algorithm_config)
    parsed = _parse(arguments, default)
    if parsed.config_file != config_file:
        raise ConfigError(
            f"{parsed.config_file}: expected a file whose name ends with .toml"
            f"{_hint_of_file(parsed.config_file)}"
        )
    config = dataclasses.replace(parsed.config, run_dir=_absolute(parsed.config.run_dir))
    check(config)
    return CommandLine(parsed.config_file, parsed.dry_run, config)


def search_module_folders(tables: dict[str, Any], config_file: Path | None) -> None:
    """Has modules found where the configuration says; `module_folders` in `tables` becomes whole.

    Args:
        tables: Of the TOML file; from now on without any influence of the working folder.
        config_file: Its path, if its folder has modules too.
    """
    given = tables.get("module_folders", [])
    # Anything else is refused as all values of a wrong type are.
    if isinstance(given, list) and all(isinstance(folder, str) for folder in given):
        tables["module_folders"] = list(module_folders(config_file, given))
        search(tables["module_folders"])


def _absolute(run_dir: str) -> str:
    """The same folder, wherever this process goes; raises ConfigError."""
    if not run_dir:
        raise ConfigError("run_dir = '': expected a folder; \".\" is the working folder")
    try:
        absolute = os.path.abspath(run_dir)
        absolute.encode()
    except OSError:
        raise ConfigError(
            f"run_dir = {run_dir!r}: the working folder has been removed; expected an absolute path"
        ) from None
    except UnicodeEncodeError:
        raise ConfigError(f"run_dir = {absolute!r}: expected a path in UTF-8") from None
    return absolute


def _is_missing(arguments: Sequence[str]) -> bool:
    """Whether the command line begins with none that could be meant as the file."""
    return (not arguments or arguments[0].startswith("-")) and not {"-h", "--help"} & {*arguments}


def _examples() -> str:
    """A command that would do, and what else there is in the folder of configurations."""
    example = "seed-learner configs/pong_vtrace.toml"
    here = sorted(path.name for path in Path("configs").glob("*.toml"))
    return f"{example}; configs/ has {', '.join(here)}" if here else example


def _hint_of_file(missing: Path) -> str:
    """Which files may have been meant: in the same folder, or among the configurations."""
    folders = dict.fromkeys([missing.parent, Path("configs")])
    there = sorted(path for folder in folders for path in folder.glob("*.toml"))
    stems, stem = [path.stem for path in there], missing.stem
    likely = {stem} & {*stems} or {*filter(lambda other: stem in other, stems)}
    likely = likely or {*difflib.get_close_matches(stem, stems, 1)}
    found = [str(path) for path in there if path.stem in likely]
    return f"; did you mean {' or '.join(found)}?" if stem and found else ""


def _take_option(arguments: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """The arguments without this option, and its value; it decides which others there are."""
    rest, value = [], None
    words = iter(arguments)
    for word in words:
        if word == option:
            value = next(words, "")
        elif word.startswith(option + "="):
            value = word.removeprefix(option + "=")
        else:
            rest.append(word)
    return rest, value


def _with_capitals(arguments: Sequence[str], algorithm_type: type) -> list[str]:
    """With True for true, as the parser wants it, where a field may be that or a word."""
    hints = hints_of(_config_type(algorithm_type)).items()
    either = {name for name, hint in hints if bool in typing.get_args(hint)}
    options = ["--" + name.replace("_", "-") for name in either]
    words = [*arguments]
    for before, (index, word) in zip(["", *arguments], enumerate(arguments), strict=False):
        option, equals, value = word.rpartition("=")
        named = (option if equals else before).replace("_", "-") in options
        if named and value in ("true", "false"):
            words[index] = option + equals + value.capitalize()
    return words


def _parse(arguments: Sequence[str], default: Config) -> Any:
    """The command line as `_command_line_type`; raises ConfigError with the parser's words."""
    algorithm_type: Any = type(default.algorithm)
    command_line_type = _command_line_type(algorithm_type)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                command_line_type,
                args=_with_capitals(arguments, algorithm_type),
                prog="seed-learner",
                description="Trains by the configuration in CONFIG; any field can be overridden. "
                "--algorithm.name NAME chooses another algorithm; --version alone prints the "
                "version.",
                default=command_line_type(config_file=tyro.MISSING, dry_run=False, config=default),
            )
    except SystemExit as exit_request:
        if not exit_request.code:
            raise
        said = refusal(_in_one_line(complaint.getvalue()), arguments, type(default))
        raise ConfigError(f"{said}; --help lists all fields") from None


def _in_one_line(box: str) -> str:
    """What the parser drew as a box of sections, without its last one, which points to help."""
    # Where the output's encoding has no lines to draw with, the box is made of + - |.
    lines = [line.strip("│╭╮╰╯|+ ") for line in box.splitlines()]
    sections = re.split("[─-]{4,}", " ".join(lines))
    said = [" ".join(section.strip("─- ").split()) for section in sections]
    # The first section is the box's title, the last one points to --help.
    return "; ".join([text for text in said if text][1:-1])


@functools.lru_cache  # one type each, so that values of it are equal and match it
def _command_line_type(algorithm_type: type) -> Any:
    """The command line as a type, with the fields of this very algorithm in it."""
    config_type = _config_type(algorithm_type)
    return dataclasses.make_dataclass(
        "CommandLine",
        [
            ("config_file", typing.Annotated[
                Path, tyro.conf.Positional, tyro.conf.arg(
                    name="CONFIG", metavar="CONFIG", help="The run's TOML file, from configs/."
                )]),
            ("dry_run", typing.Annotated[
                bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(
                    help="Print the resolved configuration and what would start; start nothing."
                )]),
            ("config", typing.Annotated[config_type, tyro.conf.arg(name="")]),
        ],
        frozen=True,
    )  # fmt: skip


@functools.lru_cache
def _config_type(algorithm_type: type) -> type[Config]:
    """`Config` with the algorithm's own dataclass in the place of Any."""
    return dataclasses.make_dataclass(
        "Config",
        [
            ("algorithm", algorithm_type),
            ("algorithm_name", tyro.conf.Suppress[str]),
            # Of use before the algorithm is loaded, which says what the command line may have.
            ("module_folders", tyro.conf.Suppress[tuple[str, ...]]),
        ],
        bases=(Config,),
        frozen=True,
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises ConfigError where it is missing or malformed."""
    try:
        # Some editors begin a file with a byte order mark.
        tables = tomllib.loads(read_plain(path, _MOST_TOML_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML (nested too deep)") from None
    except ValueError as error:
        # Of TOML, of UTF-8, or a number of too many digits.
        raise ConfigError(f"{path}: not valid TOML ({error})") from None
    if _is_deep(tables):
        raise ConfigError(f"{path}: tables or lists more than {_DEEPEST} deep, expected fewer")
    return tables


def _is_deep(tables: dict[str, Any]) -> bool:
    """Whether the tables are nested so deep that even naming them would take too much stack."""
    level: list[Any] = [tables]
    for _ in range(_DEEPEST):
        level = [
            inner for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]  # fmt: skip
    return bool(level)


def from_tables(tables: Mapping[str, Any], load_algorithm_config: Any) -> Config:
    """A `Config` from TOML tables, types checked strictly; `[algorithm] name` picks the module.

    Raises:
        ConfigError: naming the field, its value and what was expected.
    """
    rest = dict(tables)
    algorithm_table = rest.pop("algorithm", {})
    if not isinstance(algorithm_table, dict):
        raise ConfigError(f"algorithm = {quote(algorithm_table)}: expected a table [algorithm]")
    algorithm_table = dict(algorithm_table)
    name = algorithm_table.pop("name", Config.algorithm_name)
    if not isinstance(name, str):
        raise ConfigError(f"algorithm.name = {quote(name)}: expected a string")
    algorithm_type = load_algorithm_config(name)
    algorithm = build(algorithm_type, algorithm_table, "algorithm.", f" of {name!r}")
    if "algorithm_name" in rest:
        raise ConfigError(
            f"algorithm_name = {quote(rest['algorithm_name'])}: unknown field; the algorithm's "
            "name is `name` in table [algorithm]"
        )
    rest |= {"algorithm": algorithm, "algorithm_name": name}
    return build(_config_type(algorithm_type), rest, "")


def build(cls: type[T], table: Mapping[str, Any], path: str, owner: str = "") -> T:
    """An instance of dataclass `cls` from a table, without any conversion but int → float.

    Args:
        path: Prefix of the field names in errors, such as "learner.".
        owner: Whose fields they are, such as " of 'vtrace'", where that is not plain.

    Raises:
        ConfigError: for an unknown field or a value of another type than declared.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in table:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1) or meant(name, names_of(Config))
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(
                f"{path}{name} = {quote(table[name])}: unknown field{owner}{hint}; "
                f"expected one of {', '.join(names)}"
            )
    values = {name: _value(hints[name], value, path + name) for name, value in table.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{path.rstrip('.')}: {error}") from None


def _value(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _value(typing.get_args(hint)[0], value, path)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast("type[Any]", hint), value, path + ".")
    if origin is tuple and isinstance(value, list):
        element = typing.get_args(hint)[0]
        return tuple(_value(element, item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        element = typing.get_args(hint)[1]
        return {key: _value(element, item, f"{path}.{key}") for key, item in value.items()}
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{path} = {quote(value)}: expected a smaller number") from None
    if not _matches(hint, value):
        raise ConfigError(f"{path} = {quote(value)}: expected {describe(hint)}")
    return value


def _matches(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice
                   for choice in typing.get_args(hint))  # fmt: skip
    if origin in (typing.Union, types.UnionType):
        return any(_matches(option, value) for option in typing.get_args(hint))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return isinstance(value, hint)
    return hint is Any or type(value) is hint


def to_tables(config: Config) -> dict[str, Any]:
    """The configuration as TOML tables; `from_tables` reads them back to an equal `Config`."""
    tables: dict[str, Any] = _without_none(dataclasses.asdict(config))
    tables["algorithm"] = {"name": tables.pop("algorithm_name"), **tables["algorithm"]}
    return tables


def _without_none(value: Any) -> Any:
    """The same without fields that are None, which TOML cannot say: they are left out."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def to_toml(config: Config) -> str:
    """The resolved configuration as the text of `config.toml`."""
    return tomli_w.dumps(to_tables(config))
