"""Reading a document, seen from the service: a short-lived process, its text as a stream, a deadline over all.

The service never parses a document. What a document can do is end its own process: by taking too much memory or
time, or by crashing a reader. Each of these is a sentence for whoever gave the document.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process

from service.contexts.documents.formats import FORMATS, INSTALL, DocumentFormat, is_readable_here
from service.errors import BadRequest

CHUNK_BYTES = 1 << 20
FIRST_CPU_S = 30
CPU_S_PER_MB = 10
"""Several times what a page of dense text takes on a slow machine."""

_PROGRAM = "service.contexts.documents.program"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionLimits:
    """What one document may take."""

    memory_bytes: int = 2 << 30
    """Of address space, the interpreter and its libraries included."""
    cpu_s: int = 600
    """At most: a small document has `FIRST_CPU_S` and `CPU_S_PER_MB`."""
    wall_s: float = 1200.0
    text_bytes: int = 4 << 30

    def cpu_s_for(self, document_bytes: int) -> int:
        return min(self.cpu_s, FIRST_CPU_S + CPU_S_PER_MB * document_bytes // 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document in a file, as a source of text."""

    path: Path
    format: DocumentFormat
    encoding: str = ""
    """Of an HTML page whose own word is not to be taken."""
    tell: Callable[[str], None] = lambda _: None
    """Told in one line, at the end, what the document became."""
    limits: ConversionLimits = ConversionLimits()

    @asynccontextmanager
    async def opened(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The text in UTF-8, while it is being read. Leaving ends the process.

        Raises:
            BadRequest: also while the text is taken: the document cannot be read, or takes more than it may.
        """
        refuse_what_is_not_readable_here(name, self.format)
        try:
            document = self.path.open("rb")
        except OSError as error:
            raise BadRequest(f"{name}: cannot be read ({error.strerror})") from error
        with document:
            cpu_s = self.limits.cpu_s_for(os.fstat(document.fileno()).st_size)
            limits = (str(self.limits.memory_bytes), str(cpu_s))
            process = await anyio.open_process(
                [sys.executable, "-I", "-m", _PROGRAM, self.format, *limits, self.encoding],
                stdin=document,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
            )
            try:
                yield _text_of(process, replace(self, limits=replace(self.limits, cpu_s=cpu_s)), name)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.aclose()


async def missing_confinement() -> str:
    """What this machine lacks to confine a reader; empty where documents can be read. Tried, not guessed."""
    words = [sys.executable, "-I", "-m", _PROGRAM, "html", str(ConversionLimits().memory_bytes), str(FIRST_CPU_S), ""]
    try:
        with anyio.fail_after(FIRST_CPU_S):
            done = await anyio.run_process(words, stdin=subprocess.DEVNULL, check=False, env={})
        return str(json.loads(done.stderr).get("unconfined", ""))
    except (OSError, TimeoutError, ValueError, AttributeError):
        return "needs its process to start and to report, which it did not"


def refuse_what_is_not_readable_here(name: str, document_format: DocumentFormat) -> None:
    """Raises `BadRequest` with the command that installs what is missing."""
    if not is_readable_here(document_format):
        card = FORMATS[document_format]
        raise BadRequest(f"{name} is a {card.label}: to read it, install the documents extra with {INSTALL}")


async def _text_of(process: Process, document: Document, name: str) -> AsyncIterator[bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    deadline = anyio.current_time() + document.limits.wall_s
    size = 0
    # No cancel scope is open across a yield.
    while chunk := await _before(deadline, process.stdout, document, name):
        size += len(chunk)
        if size > document.limits.text_bytes:
            raise _refused(document, name, f"becomes more than {document.limits.text_bytes:,} bytes of text: split it")
        yield chunk
    report = await _before(deadline, process.stderr, document, name)
    try:
        with anyio.fail_after(max(deadline - anyio.current_time(), 0)):
            code = await process.wait()
    except TimeoutError:
        raise _too_slow(document, name) from None
    problem, notes = _judged(code, report, document.limits)
    if problem:
        raise _refused(document, name, problem)
    document.tell(f"{name}: read as {FORMATS[document.format].label}{f' ({notes})' if notes else ''}")


async def _before(deadline: float, stream: ByteReceiveStream, document: Document, name: str) -> bytes:
    """The next piece; nothing at the end."""
    try:
        with anyio.fail_after(max(deadline - anyio.current_time(), 0)):
            return await stream.receive(CHUNK_BYTES)
    except anyio.EndOfStream:
        return b""
    except TimeoutError:
        raise _too_slow(document, name) from None


def _judged(code: int, report: bytes, limits: ConversionLimits) -> tuple[str, str]:
    """What is wrong, or else what is to be told."""
    if code == -signal.SIGXCPU:
        return f"took more than {limits.cpu_s} s of processor time to read: split it", ""
    if code in (-signal.SIGKILL, -signal.SIGABRT):
        return f"needs more memory to be read than the allowed {limits.memory_bytes >> 20:,} MiB: split it", ""
    if code < 0:
        return f"is damaged, or made to do harm: its reader crashed (signal {-code})", ""
    try:
        said = json.loads(report)
        return said.get("problem", ""), "; ".join(said.get("notes", ()))
    except (ValueError, AttributeError):
        return f"could not be read: its reader ended without a report (code {code})", ""


def _refused(document: Document, name: str, problem: str) -> BadRequest:
    return BadRequest(f"{name}: the {FORMATS[document.format].label} {problem}", data={"name": name})


def _too_slow(document: Document, name: str) -> BadRequest:
    return _refused(document, name, f"took longer than {document.limits.wall_s:g} s to read: split it")
