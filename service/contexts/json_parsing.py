"""Where JSON is parsed: a small document in a worker thread, a large one in a process of its own (`json_facts`)."""

import json
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from service.contexts import json_facts
from service.contexts.json_facts import JsonFacts, read_facts

PARSED_IN_A_THREAD_BYTES = 1 << 20
PARSING_TIMEOUT_S = 600.0


async def facts_of(path: Path, size_bytes: int) -> JsonFacts:
    """The facts of the document in a file. Cancelling it ends the process."""
    if size_bytes <= PARSED_IN_A_THREAD_BYTES:
        return await anyio.to_thread.run_sync(read_facts, path)
    with anyio.move_on_after(PARSING_TIMEOUT_S):
        ended = await anyio.run_process(
            [sys.executable, "-I", json_facts.__file__, str(path)],
            check=False,
            stderr=subprocess.DEVNULL,
            env={},
        )
        if ended.returncode == 0:
            return JsonFacts(**json.loads(ended.stdout))
        return _unparsed("could not be parsed: it took too much memory; split it, or store it as JSON lines")
    return _unparsed(f"could not be parsed within {PARSING_TIMEOUT_S:.0f} s; split it, or store it as JSON lines")


def _unparsed(problem: str) -> JsonFacts:
    return JsonFacts(type_name="", length=0, unit="items", problem=problem)
