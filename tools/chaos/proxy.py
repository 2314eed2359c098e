"""TCP links that misbehave on demand: one listening port for each environment server.

    with FaultProxy("127.0.0.1", 5555, count=4) as proxy:
        address = proxy.links[0].address
        proxy.call(proxy.links[0].hold)

All links live in one thread, which `FaultProxy.call` reaches. Bytes are passed on as they come,
except that those towards the learner wait for the end of their message, so that messages can be
sent twice without breaking the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, Self, TypeVar

from tools.chaos.zmtp import Splitter

T = TypeVar("T")
End = Literal["server", "learner"]
_CHUNK_BYTES = 65_536
_QUEUE_CHUNKS = 256
_RECORDED_MESSAGES = 256
# Of the event loop: more than there are from accepting a connection to its task's beginning.
_TURNS = 10
_START_TIMEOUT_S = 60.0
_Chunks = asyncio.Queue[bytes]
_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """One environment server's way to the learner. All methods belong to the proxy's thread.

    Attributes:
        port: Where the environment server connects.
        recorded: The newest whole messages to the learner, over all connections.
        flipped_s: When `corrupt` flipped a bit, by the monotonic clock.
        noticed_s: Seconds from each `half_open` until the end that was left alone closed its
            connection, too.
    """

    def __init__(self, host: str, port: int) -> None:
        """A link to the learner at this address; it listens from `open` on."""
        self.port = 0
        self.recorded: deque[bytes] = deque(maxlen=_RECORDED_MESSAGES)
        self.flipped_s: list[float] = []
        self.noticed_s: list[float] = []
        self._learner = (host, port)
        self._pairs: set[_Pair] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._delay_s = 0.0
        # Chunks, by where they come from, in each of which a byte is still to be flipped.
        self._to_flip: dict[End, int] = {"server": 0, "learner": 0}
        self._flip_at = 0.0

    @property
    def address(self) -> str:
        """For `seed-envserver --connect`."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def num_connections(self) -> int:
        """Connections from the environment server's side that are still there."""
        return len(self._pairs)

    async def open(self) -> asyncio.Server:
        """Listens at a free port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def hold(self) -> None:
        """Partition: nothing passes in either direction, not even the end of a connection."""
        self._passing.clear()

    def release(self) -> None:
        """Heals a partition; what is still connected goes on where it was."""
        self._passing.set()

    def delay(self, delay_s: float) -> None:
        """Passes each chunk on so much later, one after the other; 0 for no delay."""
        self._delay_s = delay_s

    def cut(self) -> None:
        """Closes all connections at both ends at once."""
        for pair in list(self._pairs):
            pair.cut()

    def half_open(self, left: End) -> None:
        """Host death: one end is closed, and the other, which is left, hears nothing any more."""
        for pair in list(self._pairs):
            pair.half_open(left)

    def corrupt(self, sender: End, chunks: int, place: float) -> None:
        """Flips a bit in each of the next chunks from this end, at this share of its length."""
        self._to_flip[sender], self._flip_at = chunks, place

    def inject(self, messages: list[bytes]) -> None:
        """Sends these whole messages to the learner as if the environment server had sent them."""
        for pair in self._pairs:
            pair.inject(messages)

    async def passed(self, sender: End, data: bytes) -> bytes:
        """The bytes as they arrive, once they may."""
        await self._passing.wait()
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        if data and self._to_flip[sender]:
            self._to_flip[sender] -= 1
            self.flipped_s.append(time.monotonic())
            at = int(self._flip_at * len(data))
            data = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        return data

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(self, (reader, writer))
        self._pairs.add(pair)
        # Cancelled where the proxy itself ends, which is nothing to report.
        with contextlib.suppress(asyncio.CancelledError):
            await pair.run(self._learner)
        self._pairs.discard(pair)


class _Pair:
    """One connection of an environment server and the one to the learner that belongs to it."""

    def __init__(self, link: Link, server: _Stream) -> None:
        self._link = link
        self._streams: dict[End, _Stream] = {"server": server}
        self._chunks: dict[End, _Chunks] = {
            "server": asyncio.Queue(_QUEUE_CHUNKS), "learner": asyncio.Queue(_QUEUE_CHUNKS)
        }  # fmt: skip
        self._splitter = Splitter()
        self._talks = False
        self._left: End | None = None

    async def run(self, learner: tuple[str, int]) -> None:
        """Passes bytes until one end closes; then closes the other."""
        tasks: list[asyncio.Task[None]] = []
        try:
            # Whoever connects during a partition reaches nobody until it has healed.
            await self._link.passed("server", b"")
            self._streams["learner"] = await asyncio.open_connection(*learner)
            tasks = [
                asyncio.create_task(work)
                for work in (
                    self._write("server", "learner"), self._write("learner", "server"),
                    self._read("server"), self._read("learner"),
                )
            ]  # fmt: skip
            writers = tasks[:2]
            await asyncio.wait(writers, return_when=asyncio.FIRST_COMPLETED)
            if self._left is not None:
                for writer in writers:
                    writer.cancel()
                await self._stay_silent(self._left)
        except OSError:
            return  # no learner there at present
        finally:
            for task in tasks:
                task.cancel()
            self.cut()

    def cut(self) -> None:
        """Closes both ends at once."""
        for end in list(self._streams):
            self._abort(end)

    def half_open(self, left: End) -> None:
        """Closes the other end and keeps this one, silently, until it closes by itself."""
        if len(self._streams) == 2 and self._left is None:
            self._left = left
            self._abort("learner" if left == "server" else "server")

    def inject(self, messages: list[bytes]) -> None:
        """Queues messages towards the learner, where a connection stands and has room."""
        if self._talks and self._left is None:
            for message in messages:
                with contextlib.suppress(asyncio.QueueFull):
                    self._chunks["server"].put_nowait(message)

    async def _read(self, end: End) -> None:
        """Queues what comes from this end; b"" stands for its end."""
        reader, chunks = self._streams[end][0], self._chunks[end]
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if end == "learner":
                    await chunks.put(data)
                    continue
                for piece in self._splitter.feed(data):
                    await chunks.put(piece.data)
                    if piece.is_message:
                        self._talks = True
                        self._link.recorded.append(piece.data)
        await chunks.put(b"")

    async def _write(self, sender: End, to: End) -> None:
        """Passes on what has been queued, until it ends."""
        writer, chunks = self._streams[to][1], self._chunks[sender]
        with contextlib.suppress(OSError):
            while data := await self._link.passed(sender, await chunks.get()):
                writer.write(data)
                await writer.drain()

    async def _stay_silent(self, end: End) -> None:
        """Takes and loses what comes until this end gives up."""
        began_s, chunks = time.monotonic(), self._chunks[end]
        while await chunks.get():
            pass
        self._link.noticed_s.append(time.monotonic() - began_s)

    def _abort(self, end: End) -> None:
        """Closes this end without sending what still waits."""
        self._streams[end][1].transport.abort()


class FaultProxy:
    """A thread with a number of links to one learner. A context manager."""

    def __init__(self, host: str, port: int, count: int) -> None:
        """Links to the learner at this address; it need not be there yet."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._host, self._port, self._count = host, port, count
        self._servers: list[asyncio.Server] = []
        self.links: list[Link] = []

    def __enter__(self) -> Self:
        """Starts listening."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_START_TIMEOUT_S)
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_START_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, method: Callable[[], T]) -> T:
        """Runs a link's method in the links' thread and returns what it returns."""

        async def run() -> T:
            """Calls the method where the links live."""
            return method()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_START_TIMEOUT_S)

    async def _open(self) -> None:
        for _ in range(self._count):
            link = Link(self._host, self._port)
            self._servers.append(await link.open())
            self.links.append(link)

    async def _close(self) -> None:
        # A server that is closed, and a task that is cancelled before it begins, leave connections
        # open that have just been accepted: no more are, and all that were accepted begin first.
        for listener in (each for server in self._servers for each in server.sockets):
            self._loop.remove_reader(listener.fileno())
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def free_port() -> int:
    """A TCP port of this machine that nobody uses at present."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
