"""Real processes whose output goes nowhere: what they print may be lost, and nothing else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed.wire.terminal import counted, printable, shield_output

DEADLINE_S = 300.0
SHIELD = "import os, sys; from seed.wire.terminal import shield_output; shield_output()"
# Prints on both, more than any buffer holds, and chooses an exit code.
PROGRAM = f"""
{SHIELD}
for stream in (sys.stdout, sys.stderr):
    for _ in range(50):
        print("a line\\u2192\\ud800" * 100, file=stream)
    stream.flush()
    stream.close()
    print("not closed", file=stream)
sys.exit(77)
"""


def run(redirection: str, program: str = PROGRAM, **variables: str) -> subprocess.Popen[bytes]:
    """Runs the program as a shell would, with the redirection."""
    return subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **variables},
    )  # fmt: skip


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()
    assert all(line.isprintable() for line in printable(text, lines=True).split("\n"))


def test_printable_text_stays_as_it_is() -> None:
    assert printable("Zürich: 5 × π") == "Zürich: 5 × π"
    assert printable("\x1b[2J\u202e\r\ud800\n") == r"\x1b[2J\u202e\r\ud800\n"
    assert printable("a\nb\tc", lines=True) == "a\nb\\tc"
    said = [counted(number, "server") for number in (0, 1, 2)]
    assert said == ["0 servers", "1 server", "2 servers"]


@pytest.mark.parametrize(
    "redirection",
    ["", ">/dev/full 2>&1", ">/dev/full", "2>/dev/full", ">&-", "2>&-", "<&- >&- 2>&-",
     "</dev/null >&0 2>&0"],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "ascii:strict"])
def test_what_cannot_be_printed_changes_no_exit_code(redirection: str, encoding: str) -> None:
    process = run(redirection, PYTHONIOENCODING=encoding)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 77


def test_a_file_that_may_not_grow_changes_no_exit_code(tmp_path: Path) -> None:
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))" + PROGRAM
    process = run(f">'{tmp_path / 'output'}' 2>&1", program)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 77


# Nobody reads any more, or standard error only, and more than a pipe holds.
@pytest.mark.parametrize("closed", [True, False])
def test_nobody_who_reads_changes_no_exit_code(closed: bool) -> None:
    program = PROGRAM if closed else PROGRAM.replace("range(50)", "range(1000)").replace(
        "(sys.stdout, sys.stderr)", "(sys.stderr,)"
    )  # fmt: skip
    process = run("", program)
    assert process.stdout is not None
    assert process.stderr is not None
    if closed:
        process.stdout.close()
        process.stderr.close()
    assert process.wait(DEADLINE_S) == 77
    assert closed or len(process.communicate()[1]) > 4096


def test_standard_output_arrives_whole_however_late_it_is_read() -> None:
    program = f"{SHIELD}\nprint('begin', file=sys.stderr); print('x' * 1_000_000)"
    process = run("", program)
    assert process.stderr is not None
    assert process.stderr.readline() == b"begin\n"
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert output == b"x" * 1_000_000 + b"\n"
    assert process.returncode == 0


def test_closed_descriptors_are_not_given_to_other_files() -> None:
    program = f"{SHIELD}\nsys.exit(min(os.open('/dev/null', os.O_RDONLY), *os.pipe()))"
    process = run("<&- >&- 2>&-", program)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3


def test_a_signal_handler_may_print_while_something_is_printed() -> None:
    program = (
        f"import signal\n{SHIELD}\ndef handle(*_):\n"
        "    print('handled', file=sys.stderr); signal.setitimer(signal.ITIMER_REAL, 1e-4)\n"
        "signal.signal(signal.SIGALRM, handle); handle()\n"
        "for _ in range(3000): print('x' * 300, file=sys.stderr)\n"
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)"
    )
    process = run("", program)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert b"handled" in errors


def test_streams_that_are_no_descriptors_stay_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    streams = sys.stdout, sys.stderr
    shield_output()
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not know how")
def test_a_terminal_that_is_held_holds_up_nothing() -> None:
    """Nobody takes what it shows, so that it is full after a while, and not at a round number."""
    program = f"{SHIELD}\nfor _ in range(3000): print('x' * 97, file=sys.stderr)"
    holder, terminal = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", program], stderr=terminal)
    assert process.wait(DEADLINE_S) == 0
    os.close(terminal)
    os.close(holder)


def test_a_descriptor_of_another_meaning_is_followed() -> None:
    program = f"{SHIELD}\nos.dup2(1, 2); shield_output(); print('here', file=sys.stderr)"
    output, errors = run("", program).communicate(timeout=DEADLINE_S)
    assert (output, errors) == (b"here\n", b"")


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [("", "result\n", "from C; from a child\n"),
     # Nothing fails where nobody listens.
     (">&-", "", "from C; from a child\n"), ("2>&-", "result\n", "")],
)  # fmt: skip
def test_standard_output_has_the_result_only(closed: str, out: str, err: str) -> None:
    code = (
        "import contextlib, os, subprocess\n"
        "from seed.wire.terminal import keep_stdout_for_results, shield_output\n"
        "shield_output(); keep_stdout_for_results()\n"
        "with contextlib.suppress(OSError): os.write(1, b'from C; ')\n"
        "subprocess.run('echo from a child', shell=True, stderr=subprocess.DEVNULL)\n"
        "print('result')"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == (out, err)
