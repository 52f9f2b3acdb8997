"""Where JSON is parsed: a small document in a worker thread, a large one in a process of its own (`json_facts`)."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from service.contexts.images import LARGEST_IMAGE_BYTES
from service.contexts.json_facts import JsonFacts, read_facts
from service.store.blobs import Blobs, BlobWriter, gather

PARSED_IN_A_THREAD_BYTES = 1 << 20
PARSING_TIMEOUT_S = 600.0

_PROGRAM = "service.contexts.json_facts"
_LONGEST_REPORT_BYTES = 1 << 16
_TOO_MUCH_MEMORY = "could not be parsed: it took too much memory; split it, or store it as JSON lines"


async def facts_of(path: Path, size_bytes: int, blobs: Blobs, image: BlobWriter) -> JsonFacts:
    """The facts of the document in a file; its image is written to `image` where they say that there is one.

    Cancelling it ends the process.
    """
    if size_bytes <= PARSED_IN_A_THREAD_BYTES:
        return await anyio.to_thread.run_sync(read_facts, path)
    with anyio.move_on_after(PARSING_TIMEOUT_S):
        process = await anyio.open_process(
            [sys.executable, "-I", "-m", _PROGRAM, str(path), str(LARGEST_IMAGE_BYTES)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
        )
        try:
            return await _received(process, blobs, image)
        finally:
            if process.returncode is None:
                process.kill()
            await process.aclose()
    return _unparsed(f"could not be parsed within {PARSING_TIMEOUT_S:.0f} s; split it, or store it as JSON lines")


async def _received(process: Process, blobs: Blobs, image: BlobWriter) -> JsonFacts:
    assert process.stdout is not None
    output = BufferedByteReceiveStream(process.stdout)
    try:
        facts = JsonFacts(**json.loads(await output.receive_until(b"\n", _LONGEST_REPORT_BYTES)))
    except (anyio.IncompleteRead, anyio.EndOfStream):
        return _unparsed(_TOO_MUCH_MEMORY)
    if facts.image_bytes:
        async for gathered in gather(output):
            await blobs.in_thread(partial(image.write, gathered))
    if await process.wait() != 0 or image.size_bytes != facts.image_bytes:
        return _unparsed(_TOO_MUCH_MEMORY)
    return facts


def _unparsed(problem: str) -> JsonFacts:
    return JsonFacts(type_name="", length=0, unit="items", problem=problem)
