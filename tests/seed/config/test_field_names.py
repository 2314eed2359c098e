"""Names of fields, and what wrong ones may have meant."""

from __future__ import annotations

import pytest

from seed.config.field_names import meant, names_of
from seed.config.schema import Config

NAMES = names_of(Config)


def test_fields_of_all_tables_have_a_name() -> None:
    assert {"run_dir", "learner.batch_size", "environment.atari.noop_max"} < set(NAMES)
    assert not {"learner", "environment.atari"} & set(NAMES)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        # In another table; by its initials; the beginning of it; nearly.
        ("learner.learning_rate", ["optimizer.learning_rate"]),
        ("threads", ["inference.threads", "learner.threads"]),
        ("lr", ["optimizer.learning_rate"]),
        ("batch", ["learner.batch_size"]),
        ("optimizer.learning_rte", ["optimizer.learning_rate"]),
        # As `seed-envserver` and other programs call it; "max_envs" is only spelled alike.
        ("num_envs", ["local.envs_per_server"]),
        ("inference.port", ["inference.address"]),
        ("xyz", []),
        ("", []),
        ("__", []),
    ],
)
def test_a_wrong_name_may_have_meant(name: str, fields: list[str]) -> None:
    assert meant(name, NAMES) == fields


def test_what_other_programs_call_a_field_is_one_here() -> None:
    assert meant("gamma", [*NAMES, "algorithm.discount"]) == ["algorithm.discount"]
    # An algorithm may have no such field.
    assert meant("gamma", NAMES) == []
