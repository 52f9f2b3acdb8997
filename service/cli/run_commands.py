"""`runs ls`, `show`, `tail`, `cancel`: looking at runs, also those that another process drives."""

import dataclasses
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from service.cli.boundary import without_warm_sandboxes
from service.cli.delivery import inline_answer, print_chunks
from service.cli.exit_codes import ExitCode
from service.cli.run_ends import code_of
from service.cli.screen import open_listing
from service.cli.streams import flush_out, write_out
from service.cli.views import ABANDONED, describe_run, print_json, run_page, run_row
from service.cli.watching import watch
from service.errors import BadRequest
from service.ids import RunId, is_id
from service.loop.events import RunFinished
from service.runs.runs import Runs
from service.wiring.service import open_service

LOOK_EVERY_S = 5.0


async def list_runs(*, limit: int, as_json: bool) -> ExitCode:
    """The latest runs, newest first."""
    async with open_service(without_warm_sandboxes()) as service:
        views = await service.runs.ls(limit)
        unfinished = [view.run_id for view in views if view.stop_reason is None]
        abandoned = {run_id for run_id in unfinished if await service.runs.is_abandoned(run_id)}
    if as_json:
        print_json([describe_run(view) for view in views])
    else:
        write_out("".join(run_row(view, is_abandoned=view.run_id in abandoned) + "\n" for view in views))
    return ExitCode.ANSWERED


async def show_run(text: str, *, as_json: bool, answer_only: bool) -> ExitCode:
    """One run; with `answer_only` its answer and nothing else, or beside the rest in JSON."""
    run_id = parse_run_id(text)
    async with open_service(without_warm_sandboxes()) as service:
        view = await service.runs.show(run_id)
        if answer_only and view.answer is None:
            raise BadRequest(f"run {run_id} {'is still running' if view.stop_reason is None else 'has no answer'}")
        if answer_only and as_json:
            blob = None if view.answer is None else service.blobs.path(view.answer.sha256)
            print_json(describe_run(view) | await inline_answer(view.answer, service.runs.answer_chunks(run_id), blob))
        elif answer_only:
            await print_chunks(service.runs.answer_chunks(run_id))
        elif as_json:
            print_json(describe_run(view))
        else:
            write_out(run_page(view, is_abandoned=await service.runs.is_abandoned(run_id)))
    return ExitCode.ANSWERED


async def tail_run(text: str, *, as_json: bool, show_code: bool, colour: bool) -> ExitCode:
    """Follow a run from its first event to its last; Ctrl-C stops looking and leaves the run alone."""
    run_id = parse_run_id(text)
    async with open_service(without_warm_sandboxes()) as service:
        await service.runs.show(run_id)
        async with _told_when_abandoned(service.runs, run_id):
            if as_json:
                finished = await _print_events(service.runs, run_id)
            else:
                with open_listing(colour=colour) as screen:
                    watched = await watch(service.runs, run_id, screen, show_code=show_code, may_cancel=False)
                finished = watched.finished
    return code_of(finished)


async def _print_events(runs: Runs, run_id: RunId) -> RunFinished | None:
    """As they come, an object a line; the last."""
    finished: RunFinished | None = None
    async for recorded in runs.follow(run_id):
        event = dataclasses.asdict(recorded.event)
        named = {"seq": recorded.seq, "event": type(recorded.event).__name__, **event}
        write_out(json.dumps(named) + "\n")
        flush_out()
        if isinstance(recorded.event, RunFinished):
            finished = recorded.event
    return finished


@asynccontextmanager
async def _told_when_abandoned(runs: Runs, run_id: RunId) -> AsyncIterator[None]:
    """While somebody waits for the run: once on stderr, when nobody drives it."""

    async def tell() -> None:
        while not await runs.is_abandoned(run_id):  # noqa: ASYNC110  a lease runs out, and nobody tells
            await anyio.sleep(LOOK_EVERY_S)
        sys.stderr.write(f"rlm-service: {run_id}: {ABANDONED}\n")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        yield
        tasks.cancel_scope.cancel()


async def cancel_run(text: str) -> ExitCode:
    """Ask a run to end; it settles and keeps what it has. Idempotent."""
    run_id = parse_run_id(text)
    async with open_service(without_warm_sandboxes()) as service:
        view = await service.runs.show(run_id)
        if view.stop_reason is None:
            await service.runs.cancel(run_id)
            if await service.runs.is_abandoned(run_id):
                sys.stderr.write(f"rlm-service: {run_id}: {ABANDONED}\n")
    write_out(f"cancelling {run_id}\n" if view.stop_reason is None else f"already ended: {view.stop_reason}\n")
    return ExitCode.ANSWERED


def parse_run_id(text: str) -> RunId:
    if not is_id(text, "run"):
        raise BadRequest(f"expected a run id such as run_0198… (`rlm-service runs ls` lists them), found {text[:80]!r}")
    return RunId(text)
