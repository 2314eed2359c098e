"""A second learner never takes an ipc:// address over; a dead one's socket makes way."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from seed.config.schema import ConfigError
from seed.transport import socket_files
from seed.transport.socket_files import SocketFile, listen
from seed.transport.sockets import bind, receive


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # So short that any temporary folder will do.
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def router(folder: Path) -> Iterator[zmq.Socket[bytes]]:
    socket = bind("ipc://one two.sock", 1000)
    yield socket
    socket.close(0)


def test_a_message_arrives(folder: Path, router: zmq.Socket[bytes]) -> None:
    endpoint = router.get_string(zmq.LAST_ENDPOINT)
    assert endpoint == f"ipc://{folder}/one two.sock"
    dealer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(endpoint)
    dealer.send(b"hello")
    assert router.poll(20_000)
    message = receive(router)
    assert message is not None
    assert message[1] == [b"hello"]
    dealer.close(0)


def test_the_second_is_refused_and_the_first_keeps_its_file(
    folder: Path, router: zmq.Socket[bytes]
) -> None:
    before = os.stat("one two.sock").st_ino
    with pytest.raises(ConfigError, match=r"address = .*another learner listens there"):
        bind(f"ipc://{folder}/one two.sock", 1000)
    assert os.stat("one two.sock").st_ino == before


def test_names_without_a_file_are_one_learners_too() -> None:
    address = f"ipc://@seed-rl-test-{os.getpid()}"
    router = bind(address, 1000)
    assert router.get_string(zmq.LAST_ENDPOINT) == address
    with pytest.raises(ConfigError, match=r"address = .*another learner listens there"):
        bind(address, 1000)
    router.close(0)


def test_one_that_takes_no_more_connections_is_alive(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as waiting:
        full.bind("full.sock")
        full.listen(0)
        waiting.connect("full.sock")
        with pytest.raises(ConfigError, match="another learner listens there"):
            listen("ipc://full.sock")


def test_a_dead_learners_socket_makes_way(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("dead.sock")
    descriptor = listen("ipc://dead.sock")
    assert descriptor is not None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("dead.sock")
    os.close(descriptor)


@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe"])
def test_what_is_no_socket_stays(folder: Path, kind: str) -> None:
    path = folder / "precious"
    make: dict[str, Callable[[], object]] = {
        "file": lambda: path.write_text("text"),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to("nowhere"),
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    before = os.lstat(path)
    with pytest.raises(ConfigError, match="no socket is there; choose another path"):
        listen("ipc://precious")
    assert os.lstat(path) == before


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory\); make its folder"):
        listen("ipc://missing/one.sock")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_of_another(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match=r"Permission denied\); choose a path in a folder of"):
        listen("ipc://closed/one.sock")


# Between the look and the binding another one may have bound there.
def test_only_one_at_a_time_looks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_files, "_PATIENCE_S", 0.0)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another process has locked the folder"):
        listen("ipc://one.sock")
    os.close(descriptor)
    other = listen("ipc://one.sock")
    assert other is not None
    os.close(other)


def test_a_free_path_is_of_this_user_and_goes_with_the_learner() -> None:
    router = bind("ipc://*", 1000)
    path = Path(router.get_string(zmq.LAST_ENDPOINT).removeprefix("ipc://"))
    assert path.is_absolute()
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o77 == 0
    SocketFile(f"ipc://{path}").remove()
    assert not path.parent.exists()
    router.close(0)


def test_no_room_for_a_free_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder / "missing"))
    with pytest.raises(ConfigError, match=r"'ipc://\*': no folder can be made .* give a path"):
        bind("ipc://*", 1000)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ipc://*"])
def test_other_addresses_are_left_to_the_system(address: str) -> None:
    assert listen(address) is None
    file = SocketFile(address)
    file.check(0.0)
    file.remove()


def test_the_file_goes_with_the_learner_but_no_other_does(folder: Path) -> None:
    for own in (True, False):
        descriptor = listen("ipc://one.sock")
        assert descriptor is not None
        file = SocketFile("ipc://one.sock")
        if not own:
            os.unlink("one.sock")
            (folder / "one.sock").write_text("another's")
        file.remove()
        assert os.path.exists("one.sock") is not own
        os.close(descriptor)


def test_a_folder_stays_whatever_its_name(folder: Path) -> None:
    (folder / "seed-rl-mine").mkdir()
    descriptor = listen("ipc://seed-rl-mine/one.sock")
    assert descriptor is not None
    SocketFile("ipc://seed-rl-mine/one.sock").remove()
    assert os.listdir("seed-rl-mine") == []
    os.close(descriptor)


def test_a_file_that_is_removed_is_told_of_now_and_then(
    folder: Path, router: zmq.Socket[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    file = SocketFile(router.get_string(zmq.LAST_ENDPOINT))
    file.check(0.0)
    assert not caplog.records
    os.unlink("one two.sock")
    for second in range(90):
        file.check(float(second))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "no more environment servers can connect" in caplog.text
