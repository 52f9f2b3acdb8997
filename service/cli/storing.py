"""Put what `find_sources` found into the context store."""

import os
import sys
from collections.abc import AsyncIterator, Sequence

import anyio.to_thread

from service.cli.inputs import Source
from service.contexts.redis_contexts import Contexts
from service.contexts.values import Context
from service.loop.values import ContextBinding

STDIN_BYTES = 1 << 20


async def store_sources(contexts: Contexts, sources: Sequence[Source]) -> tuple[ContextBinding, ...]:
    """Store all of them, in order."""
    return tuple(
        [
            ContextBinding(context_id=(await store_source(contexts, source)).context_id, variable=source.variable)
            for source in sources
        ]
    )


async def store_source(contexts: Contexts, source: Source) -> Context:
    """Store one.

    Raises:
        BadRequest: it is not what its kind says (broken JSON, not UTF-8, empty stdin).
    """
    if source.kind == "named_texts":
        return await contexts.put_named_texts(source.name, [(file.name, file.path) for file in source.files])
    if not source.files:
        return await contexts.put_text(source.name, _stdin())
    return await contexts.put_path(source.files[0].path, source.name)


async def _stdin() -> AsyncIterator[bytes]:
    if sys.stdin.isatty():
        sys.stderr.write("reading the context from the terminal; end it with Ctrl-D\n")
    descriptor = sys.stdin.fileno()
    while chunk := await anyio.to_thread.run_sync(os.read, descriptor, STDIN_BYTES, abandon_on_cancel=True):
        yield chunk
