"""Put what `find_sources` found into the context store."""

import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from service.cli.hints import NAME_ENCODING, sentence_of
from service.cli.inputs import Found, Source, SourceFile, StoredContext
from service.cli.visible import visible_line
from service.contexts.detection import DocumentFile, TextFile
from service.contexts.documents.conversion import Document
from service.contexts.encodings import UTF8, Recoded
from service.contexts.intake import Payload
from service.contexts.redis_contexts import Contexts
from service.contexts.values import Context
from service.errors import BadRequest
from service.loop.values import ContextBinding

READ_BYTES = 1 << 20
STDIN = 0
MOST_LINES = 20
"""Told about one source: a directory can hold thousands of documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """Who hears of it while contexts are stored."""

    line: Callable[[str], None]
    """Takes one line for people about what was converted or left out."""
    progress: Callable[[int, int], None] = lambda _done, _of: None
    """Takes how many parts of a context are stored, of how many."""


async def store_sources(contexts: Contexts, sources: Sequence[Found], telling: Telling) -> tuple[ContextBinding, ...]:
    """Store all of them, in order."""
    bindings: list[ContextBinding] = []
    for source in sources:
        match source:
            case StoredContext(context_id=context_id):
                pass
            case Source():
                context_id = (await store_source(contexts, source, telling)).context_id
        bindings.append(ContextBinding(context_id=context_id, variable=source.variable))
    return tuple(bindings)


async def store_source(contexts: Contexts, source: Source, telling: Telling) -> Context:
    """Store one; what is converted or left out on the way is told.

    Raises:
        BadRequest: it is not what its kind says (broken JSON, a damaged document, empty stdin).
    """
    told = _Told(telling.line)
    try:
        if source.kind == "named_texts":
            parts = [(file.name, _payload(source, file, told.tell)) for file in source.files]
            return await contexts.put_named_texts(
                source.name,
                parts,
                leave_out=lambda error: told.tell(f"left out: {sentence_of(error)}"),
                progress=telling.progress,
            )
        if not source.files:
            return await contexts.put_text(source.name, _stdin_payload(source, told.tell))
        return await contexts.put(source.name, source.kind, _payload(source, source.files[0], told.tell))
    finally:
        told.end(source.name)


class _Told:
    """The first lines about a source, and how many there were."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._count = 0

    def tell(self, line: str) -> None:
        self._count += 1
        if self._count <= MOST_LINES:
            self._tell(visible_line(line))

    def end(self, name: str) -> None:
        if self._count > MOST_LINES:
            self._tell(visible_line(f"{name}: {self._count - MOST_LINES} more were converted or left out"))


def _payload(source: Source, file: SourceFile, tell: Callable[[str], None]) -> Payload:
    given = source.reading.encoding
    match file.found:
        case DocumentFile(format=document_format):
            encoding = "" if given is None else given.name
            return Document(path=file.path, format=document_format, encoding=encoding, tell=tell)
        case TextFile(encoding=encoding):
            if encoding == UTF8:
                return file.path
            say = _overruled(tell) if encoding.origin == "guess" else tell
            return Recoded(source=file.path, encoding=encoding, tell=say)
        case None:
            pipe = _pipe(file.path)
            return pipe if given in (None, UTF8) else Recoded(source=pipe, encoding=given, tell=tell)


def _overruled(tell: Callable[[str], None]) -> Callable[[str], None]:
    """The same, with how to overrule a guess."""
    return lambda line: tell(f"{line}; if that is wrong, say {NAME_ENCODING}")


def _stdin_payload(source: Source, tell: Callable[[str], None]) -> Payload:
    given = source.reading.encoding
    return _stdin() if given in (None, UTF8) else Recoded(source=_stdin(), encoding=given, tell=tell)


async def _stdin() -> AsyncIterator[bytes]:
    if os.isatty(STDIN):
        sys.stderr.write("reading stdin (Ctrl-D ends it)\n")
    async for chunk in _chunks(STDIN):
        yield chunk


async def _pipe(path: Path) -> AsyncIterator[bytes]:
    try:
        # Non-blocking, or opening would wait, uninterruptibly, for somebody who writes.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
    except OSError as error:
        raise BadRequest(f"{visible_line(str(path))} cannot be read: {error.strerror}") from error
    with closing(file):
        async for chunk in _chunks(file.fileno()):
            yield chunk


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    """Everything until its end. Where that can take for ever it waits without a thread, so that Ctrl-C ends it."""
    mode = os.fstat(descriptor).st_mode
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    while True:
        if waits:
            await anyio.wait_readable(descriptor)
        try:
            if waits:
                chunk = os.read(descriptor, READ_BYTES)
            else:
                chunk = await anyio.to_thread.run_sync(os.read, descriptor, READ_BYTES, abandon_on_cancel=True)
        except BlockingIOError:
            continue  # somebody else read it first
        except OSError as error:
            raise BadRequest(f"what was piped in cannot be read: {error.strerror}") from error
        if not chunk:
            return
        yield chunk
