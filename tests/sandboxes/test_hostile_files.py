"""A sandbox that lies about its files is ended like any other liar; what it says within the protocol is an error of the
file."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_image.protocol import MAX_FILES_LISTED
from service.errors import BadRequest
from service.sandboxes.files import FileChanged, FileMissing, FileStanding, FileTooLarge, NotAFile
from service.sandboxes.port import SandboxGone
from service.sandboxes.sandbox import Sandbox
from tests.sandboxes.scripted import http, ok, refusal
from tests.sandboxes.test_hostile_peer import on, scene

pytestmark = pytest.mark.anyio

STANDING = FileStanding(path="f", size_bytes=3, mark="1-3-5")


def piece(body: bytes, *, mark: str = "1-3-5", size: str = "3") -> bytes:
    return http(200, body, f"x-rlm-mark: {mark}", f"x-rlm-size: {size}")


async def read(sandbox: Sandbox) -> bytes:
    return b"".join([piece async for piece in sandbox.files.read(STANDING, 0, 3)])


BAD_LISTS: dict[str, bytes] = {
    "no list": ok({"files": {}, "is_complete": True}),
    "more than can be listed": ok(
        {"files": [{"path": "f", "size_bytes": 1}] * (MAX_FILES_LISTED + 1), "is_complete": True}
    ),
    "a path over its bound": ok({"files": [{"path": "x" * 5000, "size_bytes": 1}], "is_complete": True}),
    "a negative size": ok({"files": [{"path": "f", "size_bytes": -1}], "is_complete": True}),
    "a size that is no number": ok({"files": [{"path": "f", "size_bytes": "1"}], "is_complete": True}),
    "a file that is none": ok({"files": ["f"], "is_complete": True}),
    "an unknown error": http(500, b'{"code": "os.system", "message": ""}'),
    "nothing but depth": http(200, b"[" * 100_000),
    "a redirect": http(302, b"", "location: http://127.0.0.1/"),
}

BAD_PIECES: dict[str, bytes] = {
    "no mark": http(200, b"abc", "x-rlm-size: 3"),
    "no size": http(200, b"abc", "x-rlm-mark: 1-3-5"),
    "another file's mark": piece(b"abc", mark="9-9-9"),
    "a mark that is none": piece(b"abc", mark="../../etc"),
    "a size beyond any disk": piece(b"abc", size="9" * 16),
    "a negative size": piece(b"abc", size="-3"),
    "more than was asked for": piece(b"abcd"),
    "a body that breaks off": piece(b"abc").replace(b"content-length: 3", b"content-length: 300"),
    "a gzip body": http(200, b"\x1f\x8b!", "x-rlm-mark: 1-3-5", "x-rlm-size: 3", "content-encoding: gzip"),
}


@pytest.mark.parametrize("answer", BAD_LISTS.values(), ids=BAD_LISTS.keys())
async def test_a_list_of_files_outside_the_protocol_ends_the_sandbox(data: Path, answer: bytes) -> None:
    """Counts, sizes and paths beyond their bounds, and answers of another form, are never given to a caller."""
    async with scene(data, on("GET", "/files", answer)) as it:
        with pytest.raises(SandboxGone):
            await it.sandbox.files.list()
        assert not it.provider.processes[0].is_running


@pytest.mark.parametrize("answer", BAD_PIECES.values(), ids=BAD_PIECES.keys())
async def test_a_piece_of_a_file_outside_the_protocol_ends_the_sandbox(data: Path, answer: bytes) -> None:
    """A piece that does not say of which file it is, or is of another, or of another length, reaches nobody."""
    async with scene(data, on("GET", "/files/content", answer)) as it:
        with pytest.raises(SandboxGone):
            await read(it.sandbox)
        assert not it.provider.processes[0].is_running


async def test_a_short_piece_is_a_file_that_changed(data: Path) -> None:
    """Less than was asked for is told as a change, never padded or taken for the end."""
    async with scene(data, on("GET", "/files/content", piece(b"ab"))) as it:
        with pytest.raises(FileChanged):
            await read(it.sandbox)
        assert it.sandbox.is_running


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "bad_request", BadRequest),
        (404, "not_found", FileMissing),
        (409, "not_a_file", NotAFile),
        (409, "changed", FileChanged),
        (507, "no_room", FileTooLarge),
    ],
)
async def test_an_error_of_a_file_leaves_the_sandbox_alive(
    data: Path, status: int, code: str, error: type[Exception]
) -> None:
    """Whatever is asked of a file, its errors are told apart in one clean line, and the sandbox goes on."""
    asks: tuple[tuple[str, str, Callable[[Sandbox], Awaitable[object]]], ...] = (
        ("GET", "/files/content", lambda sandbox: sandbox.files.look("f")),
        ("POST", "/files/delete", lambda sandbox: sandbox.files.delete("f")),
    )
    for method, path, ask in asks:
        async with scene(data, on(method, path, refusal(status, code, "line\n\x1b[31m" + "x" * 5000))) as it:
            with pytest.raises(error) as caught:
                await ask(it.sandbox)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 1000
            assert it.sandbox.is_running


async def test_a_put_that_is_refused_leaves_no_link_behind(data: Path) -> None:
    """The blob that a sandbox would not take is not left lying in its session directory."""
    content = data / "blob"
    content.write_bytes(b"abc")
    content.chmod(0o444)
    async with scene(data, on("PUT", "/files", refusal(507, "no_room"))) as it:
        with pytest.raises(FileTooLarge):
            await it.sandbox.files.put("f", content, 3)
        assert list((it.sandbox.directory / "contexts").iterdir()) == []
        assert it.sandbox.is_running
