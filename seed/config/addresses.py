"""Addresses that the learner's socket may be bound to, and which of them other machines reach."""

from __future__ import annotations

import ipaddress

from seed.wire import ipc

# In the place of an address: the usual one, or a free port where only local servers need to know.
AUTO = "auto"
USUAL = "tcp://127.0.0.1:5555"
_LARGEST_PORT = 65_535


def candidates(address: str) -> tuple[str, ...]:
    """The addresses that an `inference.address` stands for, to be tried in this order."""
    return (USUAL, free_port(USUAL)) if address == AUTO else (address,)


def free_port(address: str) -> str:
    """The same with whatever port is free, where it has a port."""
    return address.rpartition(":")[0] + ":*" if address.startswith("tcp://") else address


def is_address(address: str) -> bool:
    """Whether the text is "auto", tcp://HOST:PORT or ipc://PATH; the port may be "*"."""
    if address == AUTO:
        return True
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        return bool(rest)
    host, _, port = rest.rpartition(":")
    return scheme == "tcp" and bool(host) and host.isprintable() and _is_port(port)


def complaint_about(address: str) -> str:
    """What is wrong with an address; empty where a socket may be bound to it."""
    if not is_address(address):
        return 'expected tcp://HOST:PORT, ipc://PATH or "auto"'
    return ipc.complaint(address)


def is_local(address: str) -> bool:
    """Whether only processes of this machine reach an address; `is_address` must be true of it.

    Names other than localhost count as reachable, whatever they stand for today, and so does
    every form of number that is no plain IP address.
    """
    scheme, _, rest = address.partition("://")
    if scheme == "ipc" or address == AUTO:
        return True
    host = rest.rpartition(":")[0]
    if host == "localhost":
        return True
    try:
        if host.startswith("[") and host.endswith("]"):
            return ipaddress.IPv6Address(host[1:-1]).is_loopback
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _is_port(port: str) -> bool:
    if port == "*":
        return True
    # Python makes no number of thousands of digits.
    is_number = port.isascii() and port.isdecimal() and len(port) <= len(str(_LARGEST_PORT))
    return is_number and int(port) <= _LARGEST_PORT
