"""Many who follow one run by server-sent events, and note when they were told of what. Standard library only."""

import asyncio
import contextlib
import time

_EVENT = b"\nevent: "
_ALL_AT_ONCE = 50
"""Connections that are being opened at the same time."""


class Followers:
    """Of one run. Used on one event loop."""

    def __init__(self, port: int, key: str, run_id: str) -> None:
        self._port = port
        self._head = (
            f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
            "accept: text/event-stream\r\n\r\n"
        ).encode()
        self._heard: dict[str, list[float]] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._count = 0

    async def open(self, count: int) -> None:
        """Returns when all have been told of the run's first event. Raises when one is refused."""
        places = asyncio.Semaphore(_ALL_AT_ONCE)
        self._count = count
        streams = await asyncio.gather(*(self._opened(places) for _ in range(count)))
        self._tasks = [asyncio.create_task(self._listen(*stream)) for stream in streams]
        await self.heard("RunSubmitted")

    async def heard(self, event: str) -> list[float]:
        """When each was told of it, by `time.time`; waits for the last. Raises when one is told no more."""
        while len(self._heard.get(event, ())) < self._count:
            self._changed.clear()
            for task in self._tasks:
                if task.done():
                    task.result()
            await self._changed.wait()
        return self._heard[event]

    async def close(self) -> None:
        """Follow no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _opened(self, places: asyncio.Semaphore) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(self._head)
            status = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in status.split(b"\r\n", 1)[0]:
                writer.close()
                raise ValueError(f"expected to follow the run, found {status!r}")
            return reader, writer

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the stream ends. A name may be cut where one piece ends, so a part of each is kept for the next."""
        kept = b""
        try:
            while piece := await reader.read(1 << 16):
                now = time.time()
                text = kept + piece
                *whole, kept = text.split(b"\n\n")
                for block in whole:
                    _, found, rest = (b"\n" + block).partition(_EVENT)
                    if found:
                        self._heard.setdefault(rest.split(b"\n", 1)[0].decode().strip(), []).append(now)
                self._changed.set()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
