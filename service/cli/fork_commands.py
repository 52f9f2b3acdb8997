"""`runs fork` and `runs replay`: a run once more, from one of its turns on or to see that it comes out the same."""

from dataclasses import dataclass

from service.cli.boundary import without_warm_sandboxes
from service.cli.delivery import print_chunks
from service.cli.exit_codes import ExitCode
from service.cli.run_commands import parse_run_id
from service.cli.run_ends import code_of, delivering, warn_of_settings, warn_of_weak_isolation
from service.cli.screen import open_screen
from service.cli.streams import write_out
from service.cli.views import print_json
from service.cli.visible import visible_text
from service.cli.watching import watch
from service.errors import BadRequest
from service.money import parse_usd
from service.runs.forks.forking import fork
from service.runs.forks.values import ForkRequest, Overrides
from service.runs.replay.comparing import ReplayReport
from service.runs.replay.replaying import replay
from service.settings import read_settings
from service.wiring.service import open_service


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkOptions:
    """The command line of `runs fork`, as typed. None means: as in the source."""

    run: str
    from_turn: int
    model: str | None
    sub_model: str | None
    prompt_pack: str | None
    max_cost: str | None
    max_turns: int | None
    timeout_s: float | None
    show_code: bool
    quiet: bool
    colour: bool


async def fork_run(options: ForkOptions) -> ExitCode:
    """Fork the run, show the fork on stderr until it has ended, and print its answer."""
    source_id = parse_run_id(options.run)
    asked = ForkRequest(from_turn=options.from_turn, overrides=_overrides(options))
    settings = read_settings()
    warn_of_settings(settings)
    async with open_service(settings) as service:
        runs = service.runs
        await warn_of_weak_isolation(service.provider)
        with open_screen(quiet=options.quiet, colour=options.colour) as screen:
            run_id = await fork(runs, source_id, asked)
            runs.start(run_id)
            watched = await watch(runs, run_id, screen, show_code=options.show_code, may_cancel=True)
        finished = watched.finished
        if finished is None:
            service.leave_at_once()
        elif finished.answer is not None:
            with delivering(run_id):
                await print_chunks(runs.answer_chunks(run_id))
        return code_of(finished)


async def replay_run(text: str, *, timeout_s: float, as_json: bool) -> ExitCode:
    """Do a finished run again without any model, and say whether it came out the same."""
    run_id = parse_run_id(text)
    async with open_service(without_warm_sandboxes()) as service:
        report = await replay(service.runs, run_id, patience_s=timeout_s)
    if as_json:
        print_json(_described(report))
    else:
        write_out(_page(report))
    return ExitCode.ANSWERED if report.is_same else ExitCode.DIFFERS


def _overrides(options: ForkOptions) -> Overrides:
    limits: dict[str, float | None] = {}
    if options.max_cost is not None:
        try:
            limits["cost"] = parse_usd(options.max_cost)
        except ValueError as error:
            raise BadRequest(f"--max-cost: {error}") from None
    if options.max_turns is not None:
        limits["turns"] = options.max_turns
    if options.timeout_s is not None:
        limits["wall_s"] = options.timeout_s
    return Overrides(
        root_model=options.model, sub_model=options.sub_model, prompt_pack=options.prompt_pack, limits=limits
    )


def _described(report: ReplayReport) -> dict[str, object]:
    found = report.difference
    return {
        "run_id": report.run_id,
        "is_same": report.is_same,
        "events": report.events,
        "all_events": report.all_events,
        "cells": report.cells,
        "left_out": list(report.left_out),
        "difference": None
        if found is None
        else {"seq": found.seq, "what": found.what, "expected": found.expected, "found": found.found},
    }


def _page(report: ReplayReport) -> str:
    compared = f"{report.events} of {report.all_events} events compared, {report.cells} cells run again\n"
    left_out = "".join(f"left out, because it was cut short then: {cell}\n" for cell in report.left_out)
    found = report.difference
    if found is not None:
        sides = f"expected: {visible_text(found.expected)}\n   found: {visible_text(found.found)}\n"
        return f"different at event {found.seq}: {found.what}\n{sides}{compared}{left_out}"
    verdict = "the same\n" if report.is_same else "the time was over before the end; nothing differed until then\n"
    return f"{verdict}{compared}{left_out}"
