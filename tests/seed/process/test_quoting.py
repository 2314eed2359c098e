"""What a message quotes is one line that a terminal just prints, and never long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed.process.quoting import quote, shorten


@given(st.text())
def test_any_text_becomes_a_short_line(text: str) -> None:
    assert shorten(text).isprintable()
    assert len(shorten(text * 300)) <= 203
    assert shorten(" a\n  b\x1b ") == r"a b\x1b"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a  b\n", r"'a  b\n'"),
        ({"a": [1.5, None]}, "{'a': [1.5, None]}"),
        (10**77, f"1{'0' * 77}"),
        # Of which Python would write out the first alone, and slowly.
        (10**4000, "a number of more than 77 digits"),
        (-(10**9000), "a number of more than 77 digits"),
        ([10**9000], "a list with numbers of more digits than can be shown"),
        ("x" * 1000, f"'{'x' * 199}..."),
    ],
    ids=range(7),
)
def test_a_value_is_quoted_as_it_is_where_that_is_short(value: Any, said: str) -> None:
    assert quote(value) == said
