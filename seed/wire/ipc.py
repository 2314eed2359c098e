"""ipc:// addresses, which the learner and its environment servers must understand alike."""

from __future__ import annotations

import os

_SCHEME = "ipc://"
# What fits into Linux's `sockaddr_un`, with the zero at its end.
LONGEST_PATH_BYTES = 107
# A free path, which the learner chooses.
ANY = "ipc://*"


def path_of(address: str) -> str | None:
    """The path of a socket's file in an address, or a name that begins with "@"; else None.

    A name with "@" is Linux's: of a socket without a file.
    """
    if not address.startswith(_SCHEME) or address == ANY:
        return None
    return address.removeprefix(_SCHEME)


def absolute(address: str) -> str:
    """The same address from whatever folder: processes of one run may work in several."""
    path = path_of(address)
    if not path or path.startswith(("@", "/")):
        return address
    return _SCHEME + os.path.join(os.getcwd(), path)


def complaint(address: str) -> str:
    """What is wrong with an address's path; empty where nothing is, or it is no ipc:// address."""
    path = path_of(absolute(address))
    if path is None:
        return ""
    if path in ("", "@"):
        return "expected a path after ipc://"
    if not path.isprintable():
        return "expected a path of characters that can be printed"
    length = len(path.encode())
    if length > LONGEST_PATH_BYTES:
        return (
            f"its path has {length} bytes, and the system takes {LONGEST_PATH_BYTES} at most; "
            "choose a shorter one, say in /tmp"
        )
    return ""
