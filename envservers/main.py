"""The command `seed-envserver`: environments for a learner somewhere on the network."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import seed
from envservers.supervision.shared_state import Supervision
from envservers.supervision.supervisor import supervise
from seed.wire import ipc
from seed.wire.limits import MAX_ENVS_PER_SERVER, MAX_GROUPS, STARTER_VARIABLE
from seed.wire.terminal import printable, shield_output

if TYPE_CHECKING:
    from envservers.connection import Keys

_DESCRIPTION = """\
Steps environments for a SEED learner. Which environment, its options and its seeds come from the
learner, so that all a machine needs is the learner's address and a number. The server waits for a
learner that is not up yet, and for the next one when a learner has gone.
"""
_EPILOG = """\
An environment that fails is made anew, later each time; after 5 faults in a row it stays down. The
learner's log says why.

exit codes: 0 stopped, or the learner finished (--once); 1 all environments stay down, or no learner
came (--wait-s); 2 wrong arguments, refused by the learner, or an environment that cannot be run
here; 76 the learner does not allow the key, or one side has keys and the other none
"""
# What the clock below Python can count to.
_LONGEST_TIMEOUT_S = 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (by default the process's); returns its exit code."""
    shield_output()
    # Not for environments, which may start other programs.
    starter = os.environ.pop(STARTER_VARIABLE, "")
    arguments = _parse(argv)
    return supervise(
        lambda supervision: _work(arguments, supervision),
        arguments.step_timeout_s,
        starter=int(starter) if starter.isdecimal() else None,
        once=arguments.once,
    )


def _work(arguments: argparse.Namespace, supervision: Supervision) -> int:
    """Runs the environment server; in a process of its own, as environments may end it."""
    # Environments may be modules of the folder that the command runs in, where that still exists.
    with contextlib.suppress(OSError):
        sys.path += {os.getcwd()}.difference(sys.path)
    from envservers.connection import Connection, UnusableAddress
    from envservers.server import EXIT_REFUSED, EnvServer
    from seed.wire.keys import KeyFileError

    try:
        connection = Connection(arguments.connect, _keys(arguments))
    except (UnusableAddress, KeyFileError) as error:
        print(f"seed-envserver: {printable(str(error))}", file=sys.stderr)
        return EXIT_REFUSED
    server = EnvServer(
        connection,
        group_sizes(arguments.num_envs, arguments.groups),
        once=arguments.once,
        wait_s=arguments.wait_s,
        name=arguments.name,
        supervision=supervision,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        # It looks for itself whether the supervisor was asked.
        server.wake()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return server.run()


def _keys(arguments: argparse.Namespace) -> Keys | None:
    """The keys that the command line names; raises KeyFileError."""
    from envservers.connection import Keys
    from seed.wire.keys import read_pair, read_public

    if arguments.key is None:
        return None
    return Keys(read_pair(arguments.key), read_public(arguments.learner_key))


def group_sizes(num_envs: int, groups: int) -> tuple[int, ...]:
    """Splits `num_envs` environments into `groups` sizes that differ by one at most."""
    size, larger = divmod(num_envs, groups)
    return tuple(size + (index < larger) for index in range(groups))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="seed-envserver",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--connect", required=True, type=_address, metavar="ADDRESS",
        help="where the learner listens: tcp://HOST:PORT, or ipc://PATH on one machine",
    )  # fmt: skip
    parser.add_argument(
        "--num-envs", required=True, type=int, metavar="N", help="environments in this process"
    )
    parser.add_argument(
        "--groups", type=int, default=None, metavar="G",
        help="groups that the environments are split into; one is stepped while the learner works "
        "on the others (default: 2, or 1 for a single environment)",
    )  # fmt: skip
    parser.add_argument(
        "--once", action="store_true",
        help="end with the learner, or with the process that started this one, instead of waiting "
        "for the next learner",
    )  # fmt: skip
    parser.add_argument(
        "--wait-s", type=float, default=math.inf, metavar="SECONDS",
        help="give up when there has been no learner for so many seconds (default: never)",
    )  # fmt: skip
    parser.add_argument(
        "--step-timeout-s", type=float, default=300.0, metavar="SECONDS",
        help="an environment that takes longer for a step, a reset or to be made counts as hung: "
        "this process is started anew without it (default: 300; 0: never)",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="", help="name in the learner's log (default: host and process id)"
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE",
        help="this side's secret key, of seed-keys, for a learner with keys",
    )  # fmt: skip
    parser.add_argument(
        "--learner-key", type=Path, metavar="FILE", help="the learner's public key"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {seed.__version__}")
    arguments = parser.parse_args(argv)
    if arguments.groups is None:
        arguments.groups = min(2, arguments.num_envs)
    _check(arguments, parser)
    return arguments


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the process with exit code 2 and a reason where the arguments cannot be meant."""
    if (arguments.key is None) != (arguments.learner_key is None):
        parser.error("--key and --learner-key: expected both, or none of them")
    if not 1 <= arguments.num_envs <= MAX_ENVS_PER_SERVER:
        parser.error(f"--num-envs: expected 1 to {MAX_ENVS_PER_SERVER}, got {arguments.num_envs}")
    if not arguments.wait_s > 0:
        parser.error(f"--wait-s: expected more than 0 seconds, got {arguments.wait_s}")
    if not 0 <= arguments.step_timeout_s <= _LONGEST_TIMEOUT_S:
        parser.error(
            f"--step-timeout-s: expected 0 to {_LONGEST_TIMEOUT_S:g} seconds, "
            f"got {arguments.step_timeout_s}"
        )
    most_groups = min(MAX_GROUPS, arguments.num_envs)
    if not 1 <= arguments.groups <= most_groups:
        parser.error(
            f"--groups: expected 1 to {most_groups} for {arguments.num_envs} environments, "
            f"got {arguments.groups}"
        )


def _address(text: str) -> str:
    tcp = re.fullmatch(r"tcp://([^\s:/*]+|\[[0-9A-Fa-f:.%\w]+\]):([0-9]{1,5})", text)
    if tcp and 1 <= int(tcp[2]) <= 65_535 and text.isprintable():
        return text
    if ipc.path_of(text) is not None:
        if complaint := ipc.complaint(text):
            raise argparse.ArgumentTypeError(f"{text!r}: {complaint}")
        # Environments may change the folder, and the socket connects more than once.
        return ipc.absolute(text)
    raise argparse.ArgumentTypeError(
        f"expected tcp://HOST:PORT with a port of 1 to 65535, or ipc://PATH, got {text!r}"
    )


if __name__ == "__main__":
    sys.exit(main())
