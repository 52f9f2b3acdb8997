"""Getting an answer or an export of any size out: to stdout as it is, to a file, or an answer into one JSON object."""

import codecs
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread

from service.cli.out_file import check_target
from service.cli.streams import OutputLost, flush_out, is_terminal, write_out, write_out_bytes
from service.cli.visible import visible_text
from service.loop.values import BlobRef

_T = TypeVar("_T")

INLINE_BYTES = 1 << 20
"""A larger answer stands in the JSON object as the path of its blob."""


async def print_chunks(chunks: AsyncIterator[bytes]) -> None:
    """To stdout: byte for byte into a pipe or a file, made safe to look at on a terminal, whose line it ends there.

    Raises:
        OutputLost: stdout did not take it.
    """
    on_terminal = is_terminal()
    write = _terminal_writer() if on_terminal else write_out_bytes
    last = b""
    async for chunk in chunks:
        await _blocking(lambda chunk=chunk: write(chunk))  # type: ignore[misc]
        last = chunk[-1:] or last
    if on_terminal and last != b"\n":
        await _blocking(lambda: write(b"\n"))
    await _blocking(flush_out)


async def save_chunks(chunks: AsyncIterator[bytes], given: Path) -> None:
    """To a file, which is either the whole of it or as it was before.

    Raises:
        BadRequest: the file cannot be written any more.
        OutputLost: it did not take it.
    """
    target = check_target(given)
    try:
        file = await _blocking(lambda: (target.unfinished or target.path).open("wb"))
        try:
            async for chunk in chunks:
                await _blocking(lambda chunk=chunk: file.write(chunk))  # type: ignore[misc]
        finally:
            await _blocking(file.close)
        if target.unfinished is not None:
            target.unfinished.replace(target.path)
    except OSError as error:
        raise OutputLost(str(given), error.strerror or type(error).__name__) from error
    finally:
        if target.unfinished is not None:
            with suppress(OSError):  # whose reason has been told, if there was one
                target.unfinished.unlink()


async def inline_answer(answer: BlobRef | None, chunks: AsyncIterator[bytes], file: Path | None) -> dict[str, Any]:
    """The answer's members of a JSON object: the value itself up to `INLINE_BYTES`, else where it is kept."""
    if answer is None:
        return {"answer": None, "answer_size_bytes": 0, "answer_path": None}
    if answer.size_bytes > INLINE_BYTES:
        return {"answer": None, "answer_size_bytes": answer.size_bytes, "answer_path": str(file)}
    text = b"".join([chunk async for chunk in chunks]).decode("utf-8", "replace")
    value = json.loads(text) if answer.media == "json" else text
    return {"answer": value, "answer_size_bytes": answer.size_bytes, "answer_path": None}


async def _blocking(act: Callable[[], _T]) -> _T:
    """Pipes and disks may block for as long as they like; a cancelled command does not wait for them."""
    return await anyio.to_thread.run_sync(act, abandon_on_cancel=True)


def _terminal_writer() -> Callable[[bytes], None]:
    """An answer is model output: what a terminal would obey is shown instead (`visible`)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return lambda chunk: write_out(visible_text(decoder.decode(chunk)))
