"""What holds for all tests: those that take long come first, and no example has a deadline."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# By default an example fails that takes more than 200 ms, and each run draws other ones.
_unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("reproducible", _unhurried, derandomize=True)
settings.register_profile("new examples", _unhurried)
settings.load_profile("reproducible")


# Last: plugins have chosen by then which tests run.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what starts processes or trains in front: at the end it would be waited for alone."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("slow") or "learning" in item.path.name:
        return 0
    return 1 if {"end_to_end", "tools"} & set(item.path.parts) else 2
