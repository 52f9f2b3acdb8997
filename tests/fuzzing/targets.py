"""The parsers of hostile input, each as a function of bytes that raises nothing but for a defect."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

from pydantic import ValidationError
from starlette.requests import Request

from sandbox_image.files import FileRefused, split_path
from sandbox_image.frames import FrameDecoder, FrameViolation
from service.errors import BadRequest, RlmServiceError
from service.gateway.app import _host_call
from service.ids import CellId, KeyId
from service.loop.reply import parse, visible
from service.sandboxes import replies
from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.files import _checked
from service.web.byte_ranges import RangeNotSatisfiable, part_of
from service.web.dialects.anthropic.shapes import MessageRequest
from service.web.dialects.openai.chat_shapes import ChatCompletionRequest
from service.web.dialects.openai.responses.shapes import ResponseRequest
from service.web.digests import _wanted
from service.web.forms import MOST_PARTS, form_parts
from tests.fuzzing import sandbox_targets

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
        replies.cell_result(replies.parse(replies.CELL, data), CellId("run_1.t1.b0"), at_most_s=1.0)


def host_calls(data: bytes) -> None:
    """A host call, or a refusal."""
    with contextlib.suppress(BadRequest):
        assert _host_call(data).ordinal >= 0


def ranges(data: bytes) -> None:
    """A part lies within the payload, or there is none."""
    request = Request({"type": "http", "headers": [(b"range", b"bytes=" + data)]})
    for size_bytes in (0, 1, 1000):
        with contextlib.suppress(RangeNotSatisfiable):
            part = part_of(request, size_bytes, '"etag"')
            assert 0 <= part.first <= part.end <= size_bytes


def digests(data: bytes) -> None:
    """Known algorithms with bytes to compare, or a refusal."""
    with contextlib.suppress(BadRequest):
        assert set(_wanted(data.decode("latin-1"))) <= {"sha-256", "sha-512"}


def uploaded_paths(data: bytes) -> None:
    """What goes on the wire is text of a bounded length, as it was given."""
    path = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(BadRequest):
        assert _checked(path) == path
        assert path.encode() == data


def forms(data: bytes) -> None:
    """Each part's content is of the form, in its order, and its name is text."""
    body, names = bytearray(), []

    async def read() -> None:
        async for part in form_parts(_in_pieces(data), b"x"):
            names.append(part.name)
            async for piece in part.content:
                body.extend(piece)

    with contextlib.suppress(BadRequest):
        _driven(read())
    assert len(body) <= len(data)
    assert len(names) <= MOST_PARTS
    assert all(isinstance(name, str) for name in names)


async def _in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 5):
        yield data[start : start + 5]


def _driven(work: Coroutine[None, None, None]) -> None:
    """To its end; it waits for nothing."""
    with contextlib.suppress(StopIteration):
        work.send(None)
        raise AssertionError("it waited")


def chat_bodies(data: bytes) -> None:
    _ask(ChatCompletionRequest, data)


def response_bodies(data: bytes) -> None:
    _ask(ResponseRequest, data)


def message_bodies(data: bytes) -> None:
    _ask(MessageRequest, data)


def _ask(shape: type[ChatCompletionRequest | ResponseRequest | MessageRequest], data: bytes) -> None:
    """A conversation that can be sent on, or a refusal."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(ValidationError, RlmServiceError):
        conversation = shape.model_validate(value).conversation(_KEY)
        assert conversation.parts
        assert all(isinstance(text, str) for text in (*conversation.parts, conversation.instructions))


_KEY = KeyId("key_" + "0" * 32)
TARGETS: Mapping[str, Target] = dict(sandbox_targets.TARGETS) | {
    target.__name__: target
    for target in (
        *(frames, file_paths, root_replies, cell_replies, host_calls, ranges, digests),
        *(uploaded_paths, forms, chat_bodies, response_bodies, message_bodies),
    )
}
SEEDS: Mapping[str, tuple[bytes, ...]] = dict(sandbox_targets.SEEDS) | {
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
    "uploaded_paths": (b"in/deep/f", "größe/€".encode(), b"a" * 5000, b"\xff/a", b"../../f"),
    "forms": (
        b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nbody\r\n--x--\r\n',
        b"--x--",
        b"--x\r\ncontent-disposition: form-data; name*=utf-8''%e2%82%ac\r\n\r\n\r\n--x--",
    ),
    "chat_bodies": (
        b'{"model": "rlm/default", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}',
        b'{"model": "direct/m", "messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, '
        b'{"type": "file", "file": {"file_id": "file-' + b"0" * 32 + b'"}}]}], "n": 1, "tools": [], "max_tokens": 5, '
        b'"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}}',
        b'{"model": "m", "messages": [{"role": "tool", "content": null}], "rlm": {"context_ids": ["ctx_1"]}}',
    ),
    "response_bodies": (
        b'{"model": "rlm/default", "input": "q", "background": true, "instructions": "i", "metadata": {"a": "b"}}',
        b'{"model": "rlm/fast", "input": [{"type": "reasoning"}, {"role": "user", "content": [{"type": "input_text", '
        b'"text": "q"}, {"type": "input_file", "file_id": "x"}]}], "text": {"format": {"type": "json_schema"}}}',
    ),
    "message_bodies": (
        b'{"model": "rlm/default", "max_tokens": 9, "system": "s", "messages": [{"role": "user", "content": "q"}]}',
        b'{"model": "rlm/default", "max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "document", '
        b'"source": {"type": "text", "data": "d"}}, {"type": "document", "source": {"type": "file", "file_id": "x"}}, '
        b'{"type": "text", "text": "q"}]}], "output_config": {"format": {"type": "json_schema", "schema": {}}}}',
    ),
    "digests": (b"sha-256=:AAAA:", b"sha-512=:!:", b"md5=:x:, sha-256=:AA==:"),
}
"""What each is to understand, or nearly."""
