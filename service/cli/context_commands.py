"""`contexts put` and `contexts ls`: storing contexts apart from asking about them."""

import sys
from collections.abc import Sequence

from service.cli.boundary import without_warm_sandboxes
from service.cli.exit_codes import ExitCode
from service.cli.inputs import Reading, Source, find_sources
from service.cli.lines import Line, Style
from service.cli.screen import open_screen
from service.cli.storing import Telling, store_source
from service.cli.streams import write_out
from service.cli.views import context_row, describe_context, print_json
from service.contexts.encodings import given_encoding
from service.contexts.values import Context
from service.errors import BadRequest
from service.wiring.service import open_service


async def put_contexts(
    paths: tuple[str, ...], *, as_json: bool, encoding: str | None, documents_as_they_are: bool, colour: bool
) -> ExitCode:
    """Store what each path names and print the ids, one line each."""
    given = None if encoding is None else given_encoding(encoding)
    sources: list[Source] = []
    for found in find_sources(paths, Reading(encoding=given, documents_as_they_are=documents_as_they_are)):
        if not isinstance(found, Source):
            raise BadRequest(f"{found.context_id} is stored already: `rlm-service ask -c {found.context_id}` uses it")
        if found.variable is not None:
            raise BadRequest(f"a name is given when a context is used: `rlm-service ask -c {found.variable}=ctx_…`")
        sources.append(found)
    for source in sources:
        sys.stderr.writelines(note + "\n" for note in source.left_out)
    async with open_service(without_warm_sandboxes()) as service:
        stored: list[Context] = []
        try:
            with open_screen(quiet=False, colour=colour) as screen:
                screen.update("storing the contexts")
                telling = Telling(
                    line=lambda line: screen.tell([Line(line, Style.WARNING)]),
                    progress=lambda done, of: screen.update(f"storing the contexts {done:,} of {of:,}"),
                )
                for source in sources:
                    stored.append(await store_source(service.contexts, source, telling))
        finally:
            if stored:  # also where the next one could not be
                _print_contexts(stored, as_json=as_json)
    return ExitCode.ANSWERED


async def list_contexts(*, limit: int, as_json: bool) -> ExitCode:
    """The latest contexts, newest first."""
    async with open_service(without_warm_sandboxes()) as service:
        contexts = await service.contexts.list(limit)
    _print_contexts(contexts, as_json=as_json)
    return ExitCode.ANSWERED


def _print_contexts(contexts: Sequence[Context], *, as_json: bool) -> None:
    if as_json:
        print_json([describe_context(context) for context in contexts])
    else:
        write_out("".join(context_row(context) + "\n" for context in contexts))
