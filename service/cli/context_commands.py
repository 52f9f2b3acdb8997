"""`contexts put` and `contexts ls`: storing contexts apart from asking about them."""

import sys

from service.cli.boundary import without_warm_sandboxes
from service.cli.exit_codes import ExitCode
from service.cli.inputs import Reading, find_sources
from service.cli.storing import store_source
from service.cli.views import context_row, describe_context, print_json
from service.contexts.encodings import given_encoding
from service.wiring import open_service


async def put_contexts(
    paths: tuple[str, ...], *, as_json: bool, encoding: str | None, documents_as_they_are: bool
) -> ExitCode:
    """Store what each path names and print the ids, one line each."""
    given = None if encoding is None else given_encoding(encoding)
    sources = find_sources(paths, Reading(encoding=given, documents_as_they_are=documents_as_they_are))
    for source in sources:
        sys.stderr.writelines(note + "\n" for note in source.left_out)
    async with open_service(without_warm_sandboxes()) as service:
        stored = [await store_source(service.contexts, source, _tell) for source in sources]
    if as_json:
        print_json([describe_context(context) for context in stored])
    else:
        sys.stdout.writelines(context_row(context) + "\n" for context in stored)
    return ExitCode.ANSWERED


async def list_contexts(*, limit: int, as_json: bool) -> ExitCode:
    """The latest contexts, newest first."""
    async with open_service(without_warm_sandboxes()) as service:
        contexts = await service.contexts.list(limit)
    if as_json:
        print_json([describe_context(context) for context in contexts])
    else:
        sys.stdout.writelines(context_row(context) + "\n" for context in contexts)
    return ExitCode.ANSWERED


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
