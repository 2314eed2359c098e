"""What holds for all tests: long ones come first, examples have no deadline, signals are obeyed."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# By default an example fails that takes more than 200 ms, and each run draws other ones.
_unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("reproducible", _unhurried, derandomize=True)
settings.register_profile("new examples", _unhurried)
settings.load_profile("reproducible")

# A shell has its background jobs ignore them, nohup too, and whatever they start inherits that.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        _handler = signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, _handler)


_OF_PROCESSES = {"end_to_end", "supervision", "tools", "outside"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts processes or trains, and puts it in front: nothing long begins last."""
    for item in items:
        if _OF_PROCESSES & set(item.path.parts) or "learning" in item.path.name:
            item.add_marker("processes")
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("slow") or "learning" in item.path.name:
        return 0
    return 1 if item.get_closest_marker("processes") else 2
