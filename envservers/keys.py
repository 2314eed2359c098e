"""The command `seed-keys`: makes and lists the keys by which both sides know each other."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import seed
from seed.wire.keys import (
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    KeyFileError,
    KeyPair,
    read_pair,
    read_public,
    write_pair,
)
from seed.wire.terminal import printable, shield_output

EXIT_DONE, EXIT_FAULTY, EXIT_REFUSED = 0, 1, 2
_DESCRIPTION = """\
Keys for connections over a network. The learner and each machine, or each fleet, have a pair: the
secret key (NAME.key) stays where it is used, the public one (NAME.pub) goes to the other side.
"""
_EPILOG = """\
exit codes: 0 done; 1 (list) something is wrong with a key; 2 wrong arguments, or a file that is
there already or cannot be written
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (by default the process's); returns its exit code."""
    shield_output()
    arguments = _parse(argv)
    try:
        if arguments.command == "new":
            return _new(arguments.path)
        return _list(arguments.folder)
    except (KeyFileError, OSError) as error:
        print(f"seed-keys: {printable(str(error))}", file=sys.stderr)
        return EXIT_REFUSED


def _new(base: Path) -> int:
    if not base.name or base.suffix in (SECRET_SUFFIX, PUBLIC_SUFFIX):
        raise KeyFileError(f"{base}: expected a name without {SECRET_SUFFIX} or {PUBLIC_SUFFIX}")
    secret_path, public_path = write_pair(base, KeyPair.new())
    print(f"{printable(str(secret_path))}: secret, stays here")
    print(f"{printable(str(public_path))}: public, for the other side")
    if tree := find_publishing_tree(secret_path):
        secret, folder = printable(str(secret_path)), printable(str(tree))
        print(
            f"seed-keys: {secret} is in the git work tree {folder}, and nothing there ignores "
            f"it: `git add .` would publish it; add *{SECRET_SUFFIX} to {folder}/.gitignore",
            file=sys.stderr,
        )
    return EXIT_DONE


def find_publishing_tree(path: Path) -> Path | None:
    """The git work tree that `git add .` would publish this secret file from; None for none.

    It needs no git. Of the lists of ignored files it understands patterns of names (`*.key`,
    `keys/`), which is what they have for keys; any other pattern ignores nothing here.
    """
    path = path.resolve()
    names = [path.name]
    for folder in path.parents:
        lists = (folder / ".gitignore", folder / ".git" / "info" / "exclude")
        if any(_ignores(file, names) for file in lists):
            return None
        if (folder / ".git").exists():
            return folder
        names.append(folder.name)
    return None


def _ignores(file: Path, names: list[str]) -> bool:
    """Whether a pattern of this list is of the file, names[0], or of a folder around it."""
    # Not there, which is most often so, or not to be read.
    with contextlib.suppress(OSError, UnicodeDecodeError):
        patterns = [line.strip() for line in file.read_text().splitlines()]
        return any(
            fnmatch(name, pattern.strip("/"))
            for pattern in patterns if pattern and not pattern.startswith(("#", "!"))
            for name in (names[1:] if pattern.endswith("/") else names)
        )  # fmt: skip
    return False


def _list(folder: Path) -> int:
    """Prints the keys of a folder, one a line, then what is wrong with them."""
    complaints: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in (SECRET_SUFFIX, PUBLIC_SUFFIX):
            continue
        secret = path.suffix == SECRET_SUFFIX
        try:
            key = read_pair(path).public if secret else read_public(path)
        except KeyFileError as error:
            complaints.append(str(error))
            continue
        print(f"{key}  {printable(path.stem)}  {'secret' if secret else 'public'}")
    for complaint in complaints:
        print(f"seed-keys: {complaint}", file=sys.stderr)
    return EXIT_FAULTY if complaints else EXIT_DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="seed-keys", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"%(prog)s {seed.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a pair: PATH.key (mode 0600) and PATH.pub")
    new.add_argument("path", type=Path, metavar="PATH", help="folder and name, say keys/learner")
    listing = commands.add_parser("list", help="print the public key of each file in a folder")
    listing.add_argument("folder", type=Path, metavar="FOLDER")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
