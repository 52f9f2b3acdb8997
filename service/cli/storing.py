"""Put what `find_sources` found into the context store."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import anyio.to_thread

from service.cli.inputs import Source, SourceFile
from service.cli.visible import visible_line
from service.contexts.detection import DocumentFile, TextFile
from service.contexts.documents.conversion import Document
from service.contexts.encodings import UTF8, Recoded
from service.contexts.redis_contexts import Contexts
from service.contexts.redis_contexts import Source as Payload
from service.contexts.values import Context
from service.loop.values import ContextBinding

STDIN_BYTES = 1 << 20
MOST_LINES = 20
"""Told about one source: a directory can hold thousands of documents."""

Tell = Callable[[str], None]
"""Takes one line for people."""


async def store_sources(contexts: Contexts, sources: Sequence[Source], tell: Tell) -> tuple[ContextBinding, ...]:
    """Store all of them, in order."""
    return tuple(
        [
            ContextBinding(context_id=(await store_source(contexts, source, tell)).context_id, variable=source.variable)
            for source in sources
        ]
    )


async def store_source(contexts: Contexts, source: Source, tell: Tell) -> Context:
    """Store one; what is converted or left out on the way is told.

    Raises:
        BadRequest: it is not what its kind says (broken JSON, a damaged document, empty stdin).
    """
    told = _Told(tell)
    try:
        if source.kind == "named_texts":
            parts = [(file.name, _payload(source, file, told.tell)) for file in source.files]
            return await contexts.put_named_texts(
                source.name, parts, leave_out=lambda error: told.tell(f"left out: {error}")
            )
        if not source.files:
            return await contexts.put_text(source.name, _stdin_payload(source, told.tell))
        return await contexts.put(source.name, source.kind, _payload(source, source.files[0], told.tell))
    finally:
        told.end(source.name)


class _Told:
    """The first lines about a source, and how many there were."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._count = 0

    def tell(self, line: str) -> None:
        self._count += 1
        if self._count <= MOST_LINES:
            self._tell(visible_line(line))

    def end(self, name: str) -> None:
        if self._count > MOST_LINES:
            self._tell(visible_line(f"{name}: {self._count - MOST_LINES} more were converted or left out"))


def _payload(source: Source, file: SourceFile, tell: Tell) -> Payload:
    given = source.reading.encoding
    match file.found:
        case DocumentFile(format=document_format):
            encoding = "" if given is None else given.name
            return Document(path=file.path, format=document_format, encoding=encoding, tell=tell)
        case TextFile(encoding=encoding):
            return file.path if encoding == UTF8 else Recoded(source=file.path, encoding=encoding, tell=tell)
        case None:
            return file.path if given in (None, UTF8) else Recoded(source=file.path, encoding=given, tell=tell)


def _stdin_payload(source: Source, tell: Tell) -> Payload:
    given = source.reading.encoding
    return _stdin() if given in (None, UTF8) else Recoded(source=_stdin(), encoding=given, tell=tell)


async def _stdin() -> AsyncIterator[bytes]:
    if sys.stdin.isatty():
        sys.stderr.write("reading the context from the terminal; end it with Ctrl-D\n")
    descriptor = sys.stdin.fileno()
    while chunk := await anyio.to_thread.run_sync(os.read, descriptor, STDIN_BYTES, abandon_on_cancel=True):
        yield chunk
