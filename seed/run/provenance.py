"""Which version and configuration a checkpoint is of, and what is different now."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from seed import __version__
from seed.config.loading import to_tables
from seed.config.schema import Config
from seed.process.quoting import shorten

_ABSENT = "none"


def provenance(config: Config) -> dict[str, Any]:
    """What a checkpoint keeps of this process, as JSON has it: `version` and `config`."""
    # How a process found its start and its modules is no property of what it has learned.
    tables = to_tables(dataclasses.replace(config, resume="auto"))
    del tables["module_folders"]
    kept: dict[str, Any] = json.loads(json.dumps({"version": __version__, "config": tables}))
    return kept


def describe_changes(state: dict[str, Any], config: Config) -> str:
    """One line about the version that wrote a checkpoint and the settings that differ now.

    Args:
        state: Of the checkpoint, with what `provenance` gave in it.
        config: Of this process.

    Returns:
        The line; empty where nothing differs, or the checkpoint does not say where it comes from.
    """
    if not isinstance(state.get("config"), dict) or "version" not in state:
        return ""
    now = provenance(config)
    before, after = (
        _with_present_names(_flatten(tables, "")) for tables in (state["config"], now["config"])
    )
    changes = [
        f"{shorten(name)} = {shorten(_say(after, name))} "
        f"(it was {shorten(_say(before, name))})"
        for name in sorted(before.keys() | after.keys())
        if _say(before, name) != _say(after, name)
    ]
    lines = []
    if state["version"] != now["version"]:
        lines.append(
            f"the checkpoint was written by version {state['version']}, this is {now['version']}"
        )
    if changes:
        lines.append(f"settings that differ: {', '.join(changes)}")
    return "; ".join(lines)


def _flatten(tables: dict[str, Any], path: str) -> dict[str, Any]:
    """Settings by their full names, such as learner.batch_size."""
    settings: dict[str, Any] = {}
    for name, value in tables.items():
        if isinstance(value, dict):
            settings |= _flatten(value, f"{path}{name}.")
        else:
            settings[path + name] = value
    return settings


def _with_present_names(settings: dict[str, Any]) -> dict[str, Any]:
    """With settings under the names that they have by now."""
    former = settings.pop("replay.burn_in", 0)
    return {**settings, "learner.burn_in": settings.get("learner.burn_in") or former}


def _say(settings: dict[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else _ABSENT
