"""The bare ROUTER answers fake environment servers, and counts their rows."""

from __future__ import annotations

import threading

from tools.bench.echo import Echo
from tools.bench.fake_servers import FakeServers


def test_rows_are_answered_and_counted() -> None:
    echo = Echo(side=8)
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            echo.serve(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    fleet = FakeServers(echo.endpoint, servers=2, groups=2, group_size=4, rate=0.0)
    while len(fleet.answers) < 20:
        fleet.work()
    answered = len(fleet.answers)
    fleet.leave()
    done.set()
    thread.join()
    echo.close()
    assert fleet.registered == 2
    assert echo.rows >= 4 * answered
    assert echo.rows % 4 == 0
