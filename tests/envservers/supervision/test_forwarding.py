"""What processes below a supervisor print: passed on, or dropped where nobody takes it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from envservers.supervision.processes import descendants
from tests.waiting import DEADLINE_S, is_running, wait_for

# Two processes as the supervisor and its worker: the one prints through the other.
PROGRAM = """
import os, subprocess, sys
from seed.wire.terminal import shield_output
from envservers.supervision.forwarding import Forwarding
shield_output()
with Forwarding() as forwarding:
    sys.stdout.flush()
    worker = os.fork()
    if not worker:
        forwarding.enter()
        exec(sys.argv[1])
        sys.stdout.flush()
        os._exit(7)
    while not (ended := os.waitpid(worker, os.WNOHANG))[0]:
        forwarding.forward()
    forwarding.forward_rest()
sys.exit(os.waitstatus_to_exitcode(ended[1]))
"""
FLOOD = """
for number in range(3000):
    print("a line of a worker " * 10, number)
    print("a line of a worker", file=sys.stderr)
    os.write(1, b"from C\\n" * 10)
subprocess.run(["sh", "-c", "seq 1 20000; exit 3"])
"""


def run(code: str, script: str = 'exec "$@"') -> subprocess.Popen[bytes]:
    """Runs the program with this code for the worker, as the shell script says."""
    return subprocess.Popen(
        ["sh", "-c", script, "sh", sys.executable, "-c", PROGRAM, code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_both_streams_go_their_own_way() -> None:
    code = "print('out'); print('err', file=sys.stderr); os.write(1, b'C'); subprocess.run(['id'])"
    output, errors = run(code).communicate(timeout=DEADLINE_S)
    assert b"out\n" in output
    assert b"C" in output
    assert b"uid=" in output
    assert errors == b"err\n"


# For a terminal, standard error has a descriptor of its own, in whose place the pipe is not put.
def test_what_is_printed_before_a_terminal_goes_through_the_supervisor_too() -> None:
    loop = PROGRAM.index("    while not")
    program = PROGRAM[:loop] + (
        "    os.waitpid(worker, 0)\n"
        "    import select\n"
        "    sys.exit(8 if select.select(forwarding.descriptors[1:], [], [], 0.0)[0] else 1)"
    )
    reader, terminal = pty.openpty()
    try:
        code = "print('words', file=sys.stderr)"
        process = subprocess.Popen([sys.executable, "-c", program, code], stderr=terminal)
        assert process.wait(DEADLINE_S) == 8
    finally:
        os.close(reader)
        os.close(terminal)


@pytest.mark.parametrize(
    "script",
    ['"$@" >/dev/full 2>&1; echo $?', '"$@" >&- 2>&-; echo $?',
     '{ ("$@"; echo $? >&3) | head -1 >&2; } 3>&1',
     '{ ("$@" 2>&1; echo $? >&3) | head -1 >&2; } 3>&1'],
)  # fmt: skip
def test_nothing_that_is_printed_fails_anybody(script: str) -> None:
    process = run(FLOOD + "\nassert subprocess.run(['seq', '1', '9']).returncode == 0", script)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert output == b"7\n"


def test_nobody_waits_for_a_reader_and_what_is_dropped_is_said() -> None:
    """The reader takes nothing until the supervisor has taken what no pipe holds."""
    reader, writer = os.pipe()
    told, tell = os.pipe()
    go_on, release = os.pipe()
    code = (
        f"{FLOOD}\n"
        "import fcntl, termios\n"
        "while any(any(fcntl.ioctl(out, termios.FIONREAD, bytes(4))) for out in (1, 2)): pass\n"
        f"os.write({tell}, b'flooded'); os.read({go_on}, 1); print('the last line')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, code],
        stdout=writer, stderr=subprocess.DEVNULL, pass_fds=(tell, go_on),
    )  # fmt: skip
    for end in (writer, tell, go_on):
        os.close(end)
    assert os.read(told, 7) == b"flooded"
    with open(reader, "rb") as opened:
        held = os.read(opened.fileno(), 100_000)
        os.write(release, b"1")
        rest = opened.read()
    assert process.wait(DEADLINE_S) == 7
    for end in (told, release):
        os.close(end)
    assert b"a line of a worker" in held
    assert b"bytes left out here, which nobody took" in rest
    assert rest.endswith(b"the last line\n")


# What a process says just before its end is why it ended. More than is read at a time.
def test_the_last_words_of_a_process_are_passed_on(tmp_path: Path) -> None:
    code = (
        "import fcntl, os, signal, sys\n"
        "from envservers.supervision.supervisor import supervise\n"
        "def work(supervision):\n"
        "    fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 2**18)\n"
        "    os.kill(supervision.supervisor, signal.SIGSTOP)\n"
        "    os.write(1, b'word ' * 40_000)\n"
        "    supervision.shared.exit_code = 7\n"
        "    os._exit(7)\n"
        "sys.exit(supervise(work, 0.0))"
    )
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=output)
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    wait_for(lambda: not any(map(is_running, descendants(process.pid))))
    process.send_signal(signal.SIGCONT)
    assert process.wait(DEADLINE_S) == 7
    assert (tmp_path / "output").read_bytes() == b"word " * 40_000
