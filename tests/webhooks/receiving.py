"""A receiver of webhooks on this machine, which answers as a test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Heard], Awaitable[bytes]]


def status(code: int, *more: str) -> bytes:
    """A whole response."""
    return "\r\n".join([f"HTTP/1.1 {code} X", *more, "content-length: 0", "connection: close", "", ""]).encode()


async def takes_it(heard: Heard) -> bytes:
    return status(204)


@dataclass(eq=False)
class Receiver:
    """What it heard, and how it answers from now on."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    answer: Answer = takes_it
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def heard_at_least(self, count: int) -> list[Heard]:
        """Waits for so many requests."""
        with anyio.fail_after(PATIENCE_S):
            async with self._news:
                await self._news.wait_for(lambda: len(self.heard) >= count)
        return self.heard

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:]) if name}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            heard = Heard(path=lines[0].split()[1], headers=headers, body=body)
            async with self._news:
                self.heard.append(heard)
                self._news.notify_all()
            writer.write(await self.answer(heard))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return  # the sender went away
        finally:
            writer.close()


@asynccontextmanager
async def receiving(answer: Answer = takes_it) -> AsyncIterator[Receiver]:
    """A receiver for the time of the block."""
    receiver = Receiver(answer=answer)
    under_way: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(receiver.take(reader, writer))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    receiver.url = f"http://{host}:{port}/hook?token=t"
    try:
        yield receiver
    finally:
        server.close()
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await server.wait_closed()
