"""Configurations as tests want them: checked, small, and of an environment that is made at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from seed.config.checks import check
from seed.config.loading import from_tables
from seed.config.schema import Config
from seed.contract.loading import load_algorithm_config

CATCH: dict[str, Any] = {
    "local_envservers": 1,
    "environment": {"kind": "function", "id": "envservers.tasks.catch:make"},
    "network": {"hidden_sizes": [4]},
    "inference": {"address": "tcp://127.0.0.1:*"},
}


def make_config(**changes: Any) -> Config:
    """The configuration of a file with Catch and these changes, whose tables are laid over it."""
    tables = dict(CATCH)
    for name, value in changes.items():
        tables[name] = {**tables.get(name, {}), **value} if isinstance(value, dict) else value
    config = from_tables(tables, load_algorithm_config)
    check(config)
    return config


def change(config: Any, path: str, value: Any) -> Any:
    """The configuration with one field changed, such as "learner.batch_size"."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: change(getattr(config, name), rest, value) if rest else value})
