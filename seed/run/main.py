"""`seed-learner`: parses, locks, builds, supervises, and says how the run ended."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import threading
from pathlib import Path

from rich.logging import RichHandler

from seed.config.loading import parse_command_line
from seed.config.schema import Config, ConfigError
from seed.contract import load_algorithm_config
from seed.learner.checkpoint import CheckpointError, SaveFailed
from seed.learner.divergence import Diverged
from seed.process.logs import PlainFormatter, tell_thread_end
from seed.process.signals import Signals
from seed.process.tuning import freeze_gc, keep_freed_memory
from seed.run.build import assemble, dry_run
from seed.run.description import UnusableEnvironment
from seed.run.display import CONSOLE, tell
from seed.run.folder import check_entries
from seed.run.hints import what_comes_next
from seed.run.local_servers import LocalServerError, LocalServers, server_command, server_count
from seed.run.lock import RunLock, hold_run
from seed.run.parts import write_config
from seed.run.resume import find_checkpoint, prepare_folder
from seed.run.supervise import supervise
from seed.transport.authentication import hand_over
from seed.transport.file_limits import connections_within, raise_limit
from seed.wire.terminal import printable

log = logging.getLogger(__name__)

# Others are where they are decided: seed/process/signals.py and seed/process/watchdog.py.
EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_DIVERGED, EXIT_NO_CHECKPOINT = 0, 1, 2, 77, 78
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main(argv: list[str] | None = None, signals: Signals | None = None) -> int:
    """The `seed-learner` command; returns its exit code.

    Without `argv` it reads the command line. `signals` are those that have been taken over already.
    """
    signals = signals or Signals()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[_log_handler()], force=True
    )
    threading.excepthook = tell_thread_end
    keep_freed_memory()
    arguments = sys.argv[1:] if argv is None else argv
    try:
        command = parse_command_line(arguments, load_algorithm_config)
        if command.dry_run:
            with contextlib.redirect_stdout(sys.stderr):
                text = dry_run(command.config)
            print(text)
            return EXIT_DONE
        # Before a checkpoint is looked for: another learner may be about to write the newest.
        with hold_run(Path(command.config.run_dir)) as lock:
            code = _train(command.config, signals, lock)
        for line in what_comes_next(command.config, arguments, complete=code == EXIT_DONE):
            tell(line)
        return code
    except (ConfigError, LocalServerError, UnusableEnvironment) as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return _code_of_refusal(error)
    except CheckpointError as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return EXIT_NO_CHECKPOINT
    except Diverged as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return EXIT_DIVERGED
    except SaveFailed as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return EXIT_FAILED


def _code_of_refusal(error: Exception) -> int:
    """Another code where a disk is the reason: starting again helps once there is room."""
    reason = error.__cause__ or error.__context__
    disk = isinstance(reason, OSError) and reason.errno in _DISK_ERRORS
    return EXIT_FAILED if disk else EXIT_REFUSED


def _log_handler() -> logging.Handler:
    """In a terminal, a handler that leaves the progress line in its place."""
    if CONSOLE.is_terminal:
        rich = RichHandler(console=CONSOLE, show_path=False)
        rich.setFormatter(PlainFormatter())
        return rich
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _train(config: Config, signals: Signals, lock: RunLock) -> int:
    run_dir = Path(config.run_dir)
    check_entries(run_dir)
    loaded = find_checkpoint(config)
    count = server_count(config)
    room = connections_within(raise_limit(count))
    if room < config.inference.max_envs:
        log.warning("at most %d environment servers can connect, by `ulimit -n`", room)
    run = assemble(config, loaded)
    run.lock = lock
    prepare_folder(config, loaded)
    write_config(config, run_dir)
    lock.accept()
    log.info("listening on %s, run in %s", run.inference.endpoint, run_dir)
    if config.note:
        log.info("%s", config.note)
    authentication = run.inference.authentication
    key_files = hand_over(authentication) if authentication else ()
    command = server_command(
        config.local, run.inference.endpoint, key_files, config.module_folders
    )
    freeze_gc()
    signals.began()
    servers = LocalServers(command, count, run_dir / "envservers.log", key_files)
    try:
        supervise(run, signals, servers)
    finally:
        servers.stop(timeout_s=5.0)
    # A request that comes once all is done asks for nothing that would be left to do.
    return EXIT_DONE if run.learner.complete else signals.exit_code


if __name__ == "__main__":
    sys.exit(main())
