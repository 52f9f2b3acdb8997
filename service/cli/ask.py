"""`ask`: one question over one or more contexts, from the command line to an exit code."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.cli import exit_codes
from service.cli.answers import check_target, inline_answer, print_answer, save_answer
from service.cli.exit_codes import ExitCode
from service.cli.inputs import Source, find_sources
from service.cli.progress import Line, Style
from service.cli.screen import open_screen
from service.cli.storing import store_sources
from service.cli.views import describe_run, print_json
from service.cli.watching import watch
from service.errors import BadRequest
from service.ids import RunId, SessionId, is_id
from service.loop.events import RunFinished
from service.loop.values import BlobRef, Limits
from service.money import parse_usd
from service.runs.values import RunRequest
from service.settings import read_settings
from service.wiring import Service, open_service

SCHEMA_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """The command line of `ask`, as typed. None means: not given."""

    question: str
    contexts: tuple[str, ...]
    model: str | None
    sub_model: str | None
    max_cost: str
    max_turns: int | None
    max_depth: int | None
    max_tokens: int | None
    max_sub_calls: int | None
    timeout_s: float | None
    cell_timeout_s: float | None
    schema: Path | None
    session: str | None
    as_json: bool
    out: Path | None
    quiet: bool
    show_code: bool
    colour: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A run that was watched to its end (or left: then `finished` is None)."""

    run_id: RunId
    finished: RunFinished | None


async def ask(options: AskOptions) -> ExitCode:
    """Check everything that can be wrong, then start, show and finish the run."""
    if options.model is None:
        raise BadRequest(
            "which model is to drive the run? Give --model, such as --model openai/gpt-5-mini "
            "(with OPENAI_API_KEY set), or --model scripted/root to try the service without a provider"
        )
    if not options.contexts:
        raise BadRequest("what is the question about? Give at least one -c FILE, directory, glob or - for stdin")
    if options.out is not None:
        check_target(options.out)
    request = RunRequest(
        question=options.question,
        contexts=(),
        root_model=options.model,
        sub_model=options.sub_model or options.model,
        limits=limits_of(options),
        session_id=_session_id(options.session),
        answer_schema=_read_schema(options.schema),
    )
    sources = find_sources(options.contexts)
    settings = read_settings()
    if settings.unsafe_no_sandbox:
        sys.stderr.write(
            "rlm-service: RLM_UNSAFE_NO_SANDBOX=1: where no isolation works, code runs WITHOUT ISOLATION\n"
        )
    async with open_service(settings) as service:
        asked = await ask_service(service, request, sources, options)
        if asked.finished is None:
            return ExitCode.CANCELLED
        await _deliver(service, asked, asked.finished.answer, options)
        return exit_codes.of_run(asked.finished.stop_reason, asked.finished.answer_source)


async def ask_service(service: Service, request: RunRequest, sources: tuple[Source, ...], options: AskOptions) -> Asked:
    """Store the contexts, start the run and show it on stderr until it has ended."""
    # Before a gigabyte is copied for a model that nobody knows.
    service.catalog.resolve(request.root_model)
    service.catalog.resolve(request.sub_model)
    with open_screen(quiet=options.quiet, colour=options.colour) as screen:
        screen.show(Line(note, Style.WARNING) for source in sources for note in source.left_out)
        screen.update("storing the contexts")
        bindings = await store_sources(service.contexts, sources)
        run_id = await service.runs.submit(replace(request, contexts=bindings))
        service.runs.start(run_id)
        watched = await watch(service.runs, run_id, screen, show_code=options.show_code, may_cancel=True)
    return Asked(run_id=run_id, finished=watched.finished)


def limits_of(options: AskOptions) -> Limits:
    """The limits of the run: what was given, and the defaults for the rest. Ranges are checked at submit."""
    try:
        cost = parse_usd(options.max_cost)
    except ValueError as error:
        raise BadRequest(f"--max-cost: {error}") from None
    given: dict[str, Any] = {
        "turns": options.max_turns,
        "depth": options.max_depth,
        "tokens": options.max_tokens,
        "sub_calls": options.max_sub_calls,
        "wall_s": options.timeout_s,
        "cell_active_s": options.cell_timeout_s,
    }
    return replace(Limits(cost=cost), **{name: value for name, value in given.items() if value is not None})


def _session_id(text: str | None) -> SessionId | None:
    if text is None:
        return None
    if not is_id(text, "ses"):
        raise BadRequest(f"expected a session id such as ses_0198… after --session, found {text[:80]!r}")
    return SessionId(text)


def _read_schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(SCHEMA_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"the schema {path} cannot be read: {error.strerror}") from error
    if len(data) > SCHEMA_BYTES:
        raise BadRequest(f"the schema {path} is larger than {SCHEMA_BYTES:,} bytes")
    try:
        schema = json.loads(data)
    except ValueError as error:
        raise BadRequest(f"the schema {path} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise BadRequest(f"the schema {path} must be a JSON object, found {type(schema).__name__}")
    return schema


async def _deliver(service: Service, asked: Asked, answer: BlobRef | None, options: AskOptions) -> None:
    if answer is not None and options.out is not None:
        await save_answer(service.runs.answer_chunks(asked.run_id), options.out)
    if options.as_json:
        described = describe_run(await service.runs.show(asked.run_id))
        blob = None if answer is None else service.blobs.path(answer.sha256)
        print_json(described | await inline_answer(answer, service.runs.answer_chunks(asked.run_id), blob))
    elif answer is not None and options.out is None:
        await print_answer(service.runs.answer_chunks(asked.run_id))
    elif answer is None and not options.quiet:
        sys.stderr.write("rlm-service: the run ended without an answer\n")
