"""`seed-learner`: parses, locks the folder, plans, builds, supervises, maps endings to codes."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import threading
from pathlib import Path

from seed.config.loading import parse_command_line
from seed.config.schema import Config
from seed.contract.blame import whose
from seed.contract.loading import load_algorithm_config
from seed.process.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, CommandError
from seed.process.logs import tell_thread_end
from seed.process.signals import Signals
from seed.process.tuning import freeze_gc, keep_freed_memory
from seed.run.build import Run, build_run
from seed.run.display import log_handler, tell
from seed.run.folder import RunFolder, check_entries
from seed.run.hints import what_comes_next
from seed.run.local_servers import LocalServers, server_command, server_count
from seed.run.lock import RunLock, hold_run
from seed.run.plan import Plan, describe_plan, plan_run
from seed.run.resume import find_checkpoint, prepare_folder
from seed.run.supervise import supervise
from seed.transport.authentication import hand_over
from seed.transport.file_limits import connections_within, raise_limit
from seed.wire.terminal import printable

log = logging.getLogger(__name__)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main(argv: list[str] | None = None, signals: Signals | None = None) -> int:
    """The `seed-learner` command; returns its exit code.

    Without `argv` it reads the command line. `signals` are those that have been taken over already.
    """
    signals = signals or Signals()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[log_handler()], force=True
    )
    threading.excepthook = tell_thread_end
    keep_freed_memory()
    arguments = sys.argv[1:] if argv is None else argv
    try:
        command = parse_command_line(arguments, load_algorithm_config)
        if command.dry_run:
            _print_plan(command.config)
            return EXIT_DONE
        # Before a checkpoint is looked for: another learner may be about to write the newest.
        with hold_run(Path(command.config.run_dir)) as lock:
            code = _train(command.config, signals, lock)
        for line in what_comes_next(command.config, arguments, complete=code == EXIT_DONE):
            tell(line)
        return code
    except CommandError as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return _exit_code_of(error)


def _exit_code_of(error: CommandError) -> int:
    """Its own, but for a refusal because of a disk: starting again helps once there is room."""
    reason = error.__cause__ or error.__context__
    disk = isinstance(reason, OSError) and reason.errno in _DISK_ERRORS
    return EXIT_FAILED if disk and error.exit_code == EXIT_REFUSED else error.exit_code


def _print_plan(config: Config) -> None:
    # Standard output is for results, and environments and algorithms print, too.
    with contextlib.redirect_stdout(sys.stderr):
        text = describe_plan(plan_run(config, find_checkpoint(config)))
    print(text)


def _train(config: Config, signals: Signals, lock: RunLock) -> int:
    check_entries(Path(config.run_dir))
    # What makes the environment for its spaces has the limit that environment servers will have.
    room = connections_within(raise_limit(server_count(config)))
    plan = plan_run(config, find_checkpoint(config))
    if room < config.inference.max_envs:
        log.warning("at most %d environment servers can connect, by `ulimit -n`", room)
    folder = RunFolder(config, lock)
    run = build_run(plan, folder)
    prepare_folder(config, plan.loaded)
    folder.write_config()
    lock.accept()
    log.info("listening on %s, run in %s", run.inference.endpoint, config.run_dir)
    if config.note:
        log.info("%s", config.note)
    freeze_gc()
    signals.began()
    servers = _start_servers(plan, run)
    try:
        supervise(run, signals, servers)
    except Exception as error:
        if said := whose(error, plan.algorithm, config.algorithm_name):
            log.error("%s", said)
        raise
    finally:
        servers.stop(timeout_s=5.0)
    # A request that comes once all is done asks for nothing that would be left to do.
    return EXIT_DONE if run.learner.complete else signals.exit_code


def _start_servers(plan: Plan, run: Run) -> LocalServers:
    config, authentication = plan.config, run.inference.authentication
    key_files = hand_over(authentication) if authentication else ()
    command = server_command(
        config.local, run.inference.endpoint, key_files, config.module_folders
    )
    output = Path(config.run_dir) / "envservers.log"
    return LocalServers(command, plan.server_count, output, key_files)


if __name__ == "__main__":
    sys.exit(main())
