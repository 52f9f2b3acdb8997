"""One JSON object a line, bounded, on a deadline."""

import anyio
from pydantic import BaseModel

from service.sandboxes.launcher.protocol import MAX_LINE_BYTES
from service.sandboxes.stream import UnixStream


class WireBroken(Exception):
    """The other side went away, was late, or sent something else than one line. Never leaves this room."""


async def send_message(stream: UnixStream, message: BaseModel, deadline_s: float) -> None:
    """Raises `WireBroken`."""
    line = message.model_dump_json().encode() + b"\n"
    assert len(line) <= MAX_LINE_BYTES, type(message).__name__
    try:
        with anyio.fail_after(deadline_s):
            await stream.send(line)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError) as exc:
        raise WireBroken(f"a {type(message).__name__} could not be sent") from exc


async def receive_line(stream: UnixStream, deadline_s: float | None) -> bytes:
    """The next line. The sides take turns, so nothing may follow it. Raises `WireBroken`."""
    line = b""
    try:
        with anyio.fail_after(deadline_s):
            while not line.endswith(b"\n"):
                if len(line) >= MAX_LINE_BYTES:
                    raise WireBroken(f"a line longer than {MAX_LINE_BYTES} bytes")
                line += await stream.receive(MAX_LINE_BYTES - len(line))
                if b"\n" in line[:-1]:
                    raise WireBroken("more than one line at a time")
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
        raise WireBroken("the other side went away") from exc
    except TimeoutError as exc:
        raise WireBroken(f"nothing whole within {deadline_s:g} s") from exc
    return line
