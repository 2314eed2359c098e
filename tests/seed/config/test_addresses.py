"""Which addresses other machines reach: when in doubt, they do."""

from __future__ import annotations

import pytest

from seed.config.addresses import AUTO, USUAL, candidates, free_port, is_address, is_local


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:5555", "tcp://127.0.0.1:*", "tcp://127.255.3.4:1", "tcp://localhost:0",
     "tcp://[::1]:65535", "ipc:///tmp/seed.sock", "ipc://seed.sock", AUTO],
)  # fmt: skip
def test_of_this_machine(address: str) -> None:
    assert is_address(address)
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    ["tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://[::]:5555", "tcp://10.0.0.1:5555", "tcp://0:1",
     "tcp://eth0:5555", "tcp://lo:5555", "tcp://learner.example:5555", "tcp://localhost.:1",
     "tcp://127.example.com:5555", "tcp://127.1:5555", "tcp://127.0.0.256:1", "tcp://2130706433:1",
     "tcp://0x7f.0.0.1:1", "tcp://127.0.0.1 :1", "tcp://[127.0.0.1]:1", "tcp://::1:5555",
     "tcp://127.0.0.1:1;10.0.0.1:2", "tcp://[fe80::1%eth0]:1", "tcp://١27.0.0.1:1",
     "tcp://LOCALHOST.evil:1", "tcp://[::ffff:10.0.0.1]:1"],
)  # fmt: skip
def test_open_to_other_machines(address: str) -> None:
    assert is_address(address)
    assert not is_local(address)


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:5555", "tcp://127.0.0.1", "tcp://:5555", "tcp://127.0.0.1:65536", "ipc://",
     "tcp://127.0.0.1:http", "tcp://127.0.0.1:-1", "udp://127.0.0.1:5555", "inproc://learner",
     "ws://127.0.0.1:5555", "pgm://eth0;239.0.0.1:1", "vmci://*:1", "TCP://127.0.0.1:1",
     "tcp://127.0.0.1:٥٥", "tcp://127.0.0.1:²", "tcp://127.0.0.1:" + "9" * 5000,
     "tcp://\udcff:1", "tcp://a\x1b[2J:1"],
)  # fmt: skip
def test_no_addresses_at_all(address: str) -> None:
    assert not is_address(address)


def test_auto_is_the_usual_address_or_else_any_port_of_this_machine() -> None:
    assert candidates(AUTO) == (USUAL, "tcp://127.0.0.1:*")
    assert all(is_local(address) for address in candidates(AUTO))
    assert candidates("tcp://10.0.0.1:5") == ("tcp://10.0.0.1:5",)


@pytest.mark.parametrize(
    ("address", "free"),
    [("tcp://127.0.0.1:5", "tcp://127.0.0.1:*"), ("tcp://[::1]:5", "tcp://[::1]:*"),
     ("ipc://a:5", "ipc://a:5")],
)  # fmt: skip
def test_a_free_port_is_of_the_same_host(address: str, free: str) -> None:
    assert free_port(address) == free
