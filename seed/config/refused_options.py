"""What is said of a command line that its parser refuses: the option, its value, what it takes."""

from __future__ import annotations

import itertools
import re
import typing
from collections.abc import Sequence

from seed.config.field_names import describe, hints_of, meant

# More options than these say nothing about which one was meant.
_MOST_MEANT = 4


def refusal(said: str, arguments: Sequence[str], config_type: type) -> str:
    """The parser's words in those of this project.

    Args:
        said: By the parser, in one line.
        arguments: The command line without the program's name.
        config_type: The dataclass whose fields the options are.
    """
    hints = hints_of(config_type) | {"dry_run": bool}
    if said.startswith("Unrecognized"):
        return _flag_with_value(said, arguments, hints) or _unknown(said, arguments, list(hints))
    found = re.match(r"(?:Error parsing|.*for argument) '?(--[\w.-]+)", said)
    if found is None or (name := _name_of(found[1])) not in hints:
        return said
    value = _value_of(found[1], arguments)
    given = f" = {value!r}" if value else ""
    return f"{found[1]}{given}: expected {_expected(hints[name])}"


def _expected(hint: typing.Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"{describe(hint).removeprefix('a list of ')}, with spaces between"
    if typing.get_origin(hint) is dict:
        return "names and values in turn, with spaces between"
    return describe(hint)


def _flag_with_value(said: str, arguments: Sequence[str], hints: dict[str, typing.Any]) -> str:
    """What to say where a value follows an option that has none; "" where none does."""
    words = [part for word in arguments for part in word.split("=", 1)]
    for option, value in itertools.pairwise(words):
        name = _name_of(option)
        if option.startswith("--") and hints.get(name) is bool and f" {value}" in said:
            return f"{option} = {value!r}: it takes no value; expected {_forms(name)}"
    return ""


def _forms(name: str) -> str:
    """How a flag is given."""
    if name == "dry_run":
        return f"{_option_of(name)} alone"
    table, dot, last = name.rpartition(".")
    return f"{_option_of(name)} or {_option_of(f'{table}{dot}no_{last}')}"


def _unknown(said: str, arguments: Sequence[str], names: list[str]) -> str:
    """What was not recognized, and the options that may have been meant."""
    unknown, _, proposed = said.partition("; Perhaps you meant:")
    words = [_name_of(word) for word in arguments if word.startswith("--")]
    wrong = [word for word in words if word not in names]
    options = [_option_of(name) for word in wrong for name in meant(word, names)]
    others = [option for option in re.findall(r"(?<![\w-])--[\w.-]+", proposed)
              if _name_of(option) in names and _begins_a_part(wrong, option)]  # fmt: skip
    if len(others) <= _MOST_MEANT:
        options += others
    if not options:
        return unknown
    return f"{unknown}; did you mean {' or '.join(dict.fromkeys(options))}?"


def _begins_a_part(words: list[str], option: str) -> bool:
    """Whether one of the words is where a part of the option begins: not "port" in "importance"."""
    begins = "|".join(re.escape(word.rstrip("s")) for word in words)
    return re.search(rf"(?<![a-z0-9])({begins})", _name_of(option)) is not None


def _value_of(option: str, arguments: Sequence[str]) -> str:
    """What follows an option on the command line."""
    words = [part for word in arguments
             for part in (word.split("=", 1) if word.startswith("--") else [word])]  # fmt: skip
    start = next((i for i, word in enumerate(words) if _name_of(word) == _name_of(option)), None)
    if start is None:
        return ""
    rest = words[start + 1 :]
    end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    return " ".join(rest[:end])


def _name_of(option: str) -> str:
    """The field of an option, with a value or without."""
    return option.removeprefix("--").partition("=")[0].replace("-", "_")


def _option_of(name: str) -> str:
    # A name's last underscore keeps it apart from a word of Python's, and stays.
    return "--" + re.sub(r"_(?=.)", "-", name)
