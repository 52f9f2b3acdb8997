"""Our side behind its REST API: what `serve` opens, in the process that is measured."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio

from benchmarks.service_side import Side
from service.main import open_web
from service.web.app import create_app
from service.web.listener import Listening, serve_public

CONNECTIONS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Where it answers, and the key of its tenant."""

    side: Side
    port: int
    key: str


@asynccontextmanager
async def serve_side(side: Side) -> AsyncIterator[Served]:
    """The API of this side on a port of the kernel's choice; its data directory is fresh: the first key is made."""
    async with anyio.create_task_group() as tasks:
        key_file, rooms = await open_web(side.service.settings, side.service, tasks)
        assert key_file is not None, "the first start makes a key"
        key = (await anyio.Path(key_file).read_text()).strip()
        listening = Listening(host="127.0.0.1", port=0, most_connections=CONNECTIONS, drain_s=1.0)
        async with serve_public(create_app(rooms), listening, before_end=rooms.drain.begin) as address:
            port = urlsplit(address).port
            assert port is not None, "the address names it"
            yield Served(side=side, port=port, key=key)
        tasks.cancel_scope.cancel()
