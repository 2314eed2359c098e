"""A second learner never takes an ipc:// address over; a dead one's socket makes way."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from seed.config.schema import ConfigError
from seed.transport import socket_files
from seed.transport.socket_files import SocketFile, listen
from seed.transport.sockets import bind, receive
from tests.seed.entries import put


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # So short that any temporary folder will do.
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def listening(address: str) -> Iterator[None]:
    descriptor = listen(address)
    assert descriptor is not None
    yield
    os.close(descriptor)


@pytest.fixture
def router(folder: Path) -> Iterator[zmq.Socket[bytes]]:
    socket = bind("ipc://one two.sock", 1000)
    yield socket
    socket.close(0)


def test_a_message_arrives_and_a_second_learner_is_refused(
    folder: Path, router: zmq.Socket[bytes]
) -> None:
    endpoint = router.get_string(zmq.LAST_ENDPOINT)
    assert endpoint == f"ipc://{folder}/one two.sock"
    before = os.stat("one two.sock").st_ino
    with pytest.raises(ConfigError, match=r"address = .*another learner listens there"):
        bind(endpoint, 1000)
    # The first keeps its file.
    assert os.stat("one two.sock").st_ino == before
    dealer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(endpoint)
    dealer.send(b"hello")
    assert router.poll(20_000)
    message = receive(router)
    assert message is not None
    assert message[1] == [b"hello"]
    dealer.close(0)


def test_names_without_a_file_are_one_learners_too() -> None:
    address = f"ipc://@seed-rl-test-{os.getpid()}"
    with bind(address, 1000) as router:
        assert router.get_string(zmq.LAST_ENDPOINT) == address
        with pytest.raises(ConfigError, match=r"address = .*another learner listens there"):
            bind(address, 1000)


def test_one_that_takes_no_more_connections_is_alive_and_a_dead_ones_socket_makes_way(
    folder: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as waiting:
        full.bind("one.sock")
        full.listen(0)
        waiting.connect("one.sock")
        with pytest.raises(ConfigError, match="another learner listens there"):
            listen("ipc://one.sock")
    with listening("ipc://one.sock"), socket.socket(socket.AF_UNIX) as client:
        client.connect("one.sock")


@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe"])
def test_what_is_no_socket_stays(folder: Path, kind: str) -> None:
    put(folder / "precious", kind)
    before = os.lstat(folder / "precious")
    with pytest.raises(ConfigError, match="no socket is there; choose another path"):
        listen("ipc://precious")
    assert os.lstat(folder / "precious") == before


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", r"No such file or directory\); make its folder"),
        pytest.param(
            "closed", r"Permission denied\); choose a path in a folder of",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere"),
        ),
        # Between the look and the binding another one may have bound there.
        ("locked", "another process has locked the folder"),
    ],
)
def test_a_folder_of_no_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    monkeypatch.setattr(socket_files, "_PATIENCE_S", 0.0)
    (folder / "closed").mkdir(mode=0o500)
    (folder / "locked").mkdir()
    descriptor = os.open("locked", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match=reason):
        listen(f"ipc://{kind}/one.sock")
    os.close(descriptor)
    with listening("ipc://locked/one.sock"):
        pass


def test_a_free_path_is_of_this_user_and_goes_with_the_learner(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bind("ipc://*", 1000) as router:
        path = Path(router.get_string(zmq.LAST_ENDPOINT).removeprefix("ipc://"))
        assert path.is_absolute()
        assert path.is_socket()
        assert path.parent.stat().st_mode & 0o77 == 0
        SocketFile(f"ipc://{path}").remove()
        assert not path.parent.exists()
    monkeypatch.setattr("tempfile.tempdir", str(folder / "missing"))
    with pytest.raises(ConfigError, match=r"'ipc://\*': no folder can be made .* give a path"):
        bind("ipc://*", 1000)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ipc://*"])
def test_other_addresses_are_left_to_the_system(address: str) -> None:
    assert listen(address) is None
    file = SocketFile(address)
    file.check(0.0)
    file.remove()


# Nor does a folder that was there before, whatever its name.
@pytest.mark.parametrize("own", [True, False])
def test_the_file_goes_with_the_learner_but_no_other_does(folder: Path, own: bool) -> None:
    path = folder / "seed-rl-mine" / "one.sock"
    path.parent.mkdir()
    with listening(f"ipc://{path}"):
        file = SocketFile(f"ipc://{path}")
        if not own:
            path.unlink()
            path.write_text("another's")
        file.remove()
        assert os.listdir(path.parent) == ([] if own else [path.name])


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_goes_is_told_of_now_and_then(
    folder: Path, router: zmq.Socket[bytes], caplog: pytest.LogCaptureFixture, replaced: bool
) -> None:
    file = SocketFile(router.get_string(zmq.LAST_ENDPOINT))
    file.check(0.0)
    assert not caplog.records
    if replaced:
        Path("another's").touch()
        os.replace("another's", "one two.sock")
    else:
        os.unlink("one two.sock")
    for second in range(90):
        file.check(float(second))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "no more environment servers can connect" in caplog.text
