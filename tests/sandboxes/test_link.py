"""What becomes of a sandbox's streams when its link is closed."""

import json
from pathlib import Path

import anyio
import pytest

from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.link import Exchange, Link
from tests.sandboxes.scripted import read_line
from tests.sandboxes.test_listener import hello, listening

pytestmark = pytest.mark.anyio

ASKED = Exchange(lane="cells", method="GET", target="/", deadline_s=60, headers={})
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


async def test_a_link_that_is_closed_between_two_requests_leaves_no_stream_open(data: Path) -> None:
    """Where the lane belongs already to a request that has not begun, closing closes the stream all the same."""
    async with listening(data) as it:
        stream = await it.dial()
        await stream.send(hello("cells"))
        assert json.loads(await read_line(stream))["secret"]
        link = Link(it.listener)
        refused: list[str] = []

        async def ask_behind_it() -> None:
            try:
                async with link.exchange(ASKED):
                    pass
            except ProtocolBroken as broken:
                refused.append(str(broken))

        async def answer_one() -> None:
            while await read_line(stream) != b"\r\n":
                pass
            await stream.send(ANSWER)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer_one)
            async with link.exchange(ASKED) as answer:
                tasks.start_soon(ask_behind_it)
                await anyio.wait_all_tasks_blocked()
                assert await answer.read(10) == b"hi"
            used = link._lanes["cells"]._stream
            await link.close()
        assert refused
        assert used is not None
        assert used._stream._socket.fileno() < 0
        stream.close()
