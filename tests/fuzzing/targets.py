"""The parsers of hostile input, each as a function of bytes that raises nothing but for a defect."""

import contextlib
from collections.abc import Callable, Mapping

from starlette.requests import Request

from sandbox_image.files import FileRefused, split_path
from sandbox_image.frames import FrameDecoder, FrameViolation
from service.errors import BadRequest
from service.gateway.app import _host_call
from service.ids import CellId
from service.loop.reply import parse, visible
from service.sandboxes import replies
from service.sandboxes.dialled_stream import ProtocolBroken
from service.web.byte_ranges import RangeNotSatisfiable, part_of
from service.web.contexts.digests import _wanted

Target = Callable[[bytes], None]


def frames(data: bytes) -> None:
    """Frames come out or the stream is refused, however it is cut."""
    decoder = FrameDecoder(max_body_bytes=100)
    with contextlib.suppress(FrameViolation):
        for start in range(0, len(data), 7):
            decoder.feed(data[start : start + 7])
            while (frame := decoder.next_frame()) is not None:
                assert len(frame.body) <= 100


def file_paths(data: bytes) -> None:
    """What passes leads nowhere but down."""
    path = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(FileRefused):
        names = split_path(path)
        assert "/".join(names) == path
        assert not any(name in ("", ".", "..") or "\0" in name for name in names)


def root_replies(data: bytes) -> None:
    """Any text is a reply, and what is shown of it is text."""
    text = data.decode("utf-8", "replace")
    parse(text)
    visible(text).encode()


def cell_replies(data: bytes) -> None:
    """A cell's result, or a broken protocol."""
    with contextlib.suppress(ProtocolBroken):
        replies.cell_result(replies.parse(replies.CELL, data), CellId("run_1.t1.b0"))


def host_calls(data: bytes) -> None:
    """A host call, or a refusal."""
    with contextlib.suppress(BadRequest):
        assert _host_call(data).ordinal >= 0


def ranges(data: bytes) -> None:
    """A part lies within the payload, or there is none."""
    request = Request({"type": "http", "headers": [(b"range", b"bytes=" + data)]})
    for size_bytes in (0, 1, 1000):
        with contextlib.suppress(RangeNotSatisfiable):
            part = part_of(request, size_bytes)
            assert 0 <= part.first <= part.end <= size_bytes


def digests(data: bytes) -> None:
    """Known algorithms with bytes to compare, or a refusal."""
    with contextlib.suppress(BadRequest):
        assert set(_wanted(data.decode("latin-1"))) <= {"sha-256", "sha-512"}


TARGETS: Mapping[str, Target] = {
    target.__name__: target for target in (frames, file_paths, root_replies, cell_replies, host_calls, ranges, digests)
}
SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "frames": (b"\0\0\0\x02\0\0\0\0{}", b'\0\0\0\x08\0\0\0\x01{"a": 1}x'),
    "file_paths": (b"in/deep/f", b"../f", b"/f", b"a//b", b"a/\0", b"\xff/a"),
    "root_replies": (b"```repl\nx = 1\n```", b"FINAL(x)", b"FINAL_VAR(answer)", b"````\n```repl\n~~~python\n"),
    "cell_replies": (
        b'{"cell_id": "run_1.t1.b0", "status": "ok", "stdout": {"head": "", "tail": "", "size_bytes": 0}, '
        b'"stderr": {"head": "", "tail": "", "size_bytes": 0}, "raised": null, "variables": [], "answer": null, '
        b'"namespace_lost": false, "detail": "", "wall_s": 0.1, "active_s": 0.1, "cpu_s": 0.1}',
    ),
    "host_calls": (b'{"cell_id": "c", "function": "llm_query", "ordinal": 0, "arguments": {"prompts": ["x"]}}',),
    "ranges": (b"0-1", b"-5", b"5-", b"3-1", b"0-0,1-1", b"999999999999999-"),
    "digests": (b"sha-256=:AAAA:", b"sha-512=:!:", b"md5=:x:, sha-256=:AA==:"),
}
"""What each is to understand, or nearly."""
