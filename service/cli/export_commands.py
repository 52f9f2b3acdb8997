"""`runs export` and `runs import`: a run as one file, and from one."""

import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio

from service.cli.boundary import without_warm_sandboxes
from service.cli.delivery import print_chunks, save_chunks
from service.cli.exit_codes import ExitCode
from service.cli.run_commands import parse_run_id
from service.cli.streams import write_out
from service.cli.visible import visible_line
from service.contexts.values import Context
from service.errors import BadRequest
from service.ids import RunId
from service.runs.exports.exporting import export_lines, find_export, left_out
from service.runs.exports.importing import Importer, import_run
from service.wiring.service import open_service

READ_BYTES = 1 << 20


async def export_run(text: str, *, out: Path | None, inline_bytes: int) -> ExitCode:
    """The run as a file, or on stdout."""
    run_id = parse_run_id(text)
    async with open_service(without_warm_sandboxes()) as service:
        rooms = service.runs.rooms
        found = await find_export(rooms, run_id)
        lines = export_lines(rooms, found, inline_bytes=inline_bytes)
        if out is None:
            await print_chunks(lines)
        else:
            await save_chunks(lines, out)
    for context in left_out(found, inline_bytes=inline_bytes):
        size_bytes = sum(part.size_bytes for part in context.parts)
        sys.stderr.write(
            f"rlm-service: left out the context {visible_line(context.name, 80)} ({size_bytes} bytes): store it where "
            "the run is to be imported, or export with a larger --inline\n"
        )
    return ExitCode.ANSWERED


async def import_run_from(path: Path) -> ExitCode:
    """Make the run of a file, and print its id."""
    async with open_service(without_warm_sandboxes()) as service:
        run_id = await import_run(service.runs.rooms, _chunks(path), Importer(keep=_keep, keep_run=_keep_run))
    write_out(f"{run_id}\n")
    return ExitCode.ANSWERED


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    """Of a file, or with `-` of stdin."""
    try:
        source = sys.stdin.fileno() if str(path) == "-" else path
        async with await anyio.open_file(source, "rb") as file:
            while chunk := await file.read(READ_BYTES):
                yield chunk
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror or type(error).__name__}") from error


async def _keep(context: Context) -> None:
    """The operator's own are not counted."""


async def _keep_run(run_id: RunId, sizes: Mapping[str, int]) -> None:
    """Neither are these."""
