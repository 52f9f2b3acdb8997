"""Getting an answer of any size out: to stdout as it is, to a file, or into one JSON object."""

import codecs
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread

from service.cli.visible import visible_text
from service.errors import BadRequest
from service.loop.values import BlobRef

_T = TypeVar("_T")

INLINE_BYTES = 1 << 20
"""A larger answer stands in the JSON object as the path of its blob."""


async def print_answer(chunks: AsyncIterator[bytes]) -> None:
    """To stdout: byte for byte into a pipe or a file, made safe to look at on a terminal."""
    write = _terminal_writer() if sys.stdout.isatty() else sys.stdout.buffer.write
    async for chunk in chunks:
        await _blocking(lambda chunk=chunk: write(chunk))  # type: ignore[misc]
    if sys.stdout.isatty():
        await _blocking(lambda: write(b"\n"))
    await _blocking(sys.stdout.flush)


async def save_answer(chunks: AsyncIterator[bytes], target: Path) -> None:
    """To a file, which is either the whole answer or as it was before.

    Raises:
        BadRequest: the file cannot be written.
    """
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        file = await _blocking(lambda: unfinished.open("wb"))
        try:
            async for chunk in chunks:
                await _blocking(lambda chunk=chunk: file.write(chunk))  # type: ignore[misc]
        finally:
            file.close()
        unfinished.replace(target)
    except OSError as error:
        raise BadRequest(f"the answer cannot be written to {target}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


async def inline_answer(answer: BlobRef | None, chunks: AsyncIterator[bytes], blob: Path | None) -> dict[str, Any]:
    """The answer's members of a JSON object: the value itself up to `INLINE_BYTES`, else where it is kept."""
    if answer is None:
        return {"answer": None, "answer_size_bytes": 0, "answer_path": None}
    if answer.size_bytes > INLINE_BYTES:
        return {"answer": None, "answer_size_bytes": answer.size_bytes, "answer_path": str(blob)}
    text = b"".join([chunk async for chunk in chunks]).decode("utf-8", "replace")
    value = json.loads(text) if answer.media == "json" else text
    return {"answer": value, "answer_size_bytes": answer.size_bytes, "answer_path": None}


async def _blocking(act: Callable[[], _T]) -> _T:
    """Pipes and disks may block for as long as they like; a cancelled command does not wait for them."""
    return await anyio.to_thread.run_sync(act, abandon_on_cancel=True)


def _terminal_writer() -> Callable[[bytes], int]:
    """An answer is model output: what a terminal would obey is shown instead (`visible`)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return lambda chunk: sys.stdout.write(visible_text(decoder.decode(chunk)))
