"""`ask`: everything that can be wrong with what was typed, found before anything is started.

Nothing heavy is imported here, so that a mistyped path is answered at once; `ask_command` goes on from there.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from service.cli.inputs import Found, Reading, find_sources
from service.cli.out_file import check_target
from service.configuration.file import read_configuration
from service.contexts.encodings import given_encoding
from service.errors import BadRequest
from service.ids import SessionId, is_id
from service.loop.values import Limits
from service.money import MAX_NANO_USD, NanoUSD, format_usd, parse_usd
from service.runs.answering.profiles import DEFAULT_PACK, Profile
from service.runs.values import DEFAULT_COST, LIMIT_RANGES, RunRequest
from service.settings import read_settings

SCHEMA_BYTES = 1 << 20
OPTION_OF_LIMIT = {
    "turns": "--max-turns",
    "depth": "--max-depth",
    "tokens": "--max-tokens",
    "sub_calls": "--max-sub-calls",
    "wall_s": "--timeout",
    "cell_active_s": "--cell-timeout",
}
"""How people name the limits that they can set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """The command line of `ask`, as typed. None means: not given."""

    question: str
    more: tuple[str, ...] = ()
    """Words after the question, for which there is no place."""
    contexts: tuple[str, ...]
    encoding: str | None
    documents_as_they_are: bool
    profile: str | None
    model: str | None
    sub_model: str | None
    max_cost: str | None
    max_turns: int | None
    max_depth: int | None
    max_tokens: int | None
    max_sub_calls: int | None
    timeout_s: float | None
    cell_timeout_s: float | None
    schema: Path | None
    session: str | None
    sandbox: str | None
    as_json: bool
    out: Path | None
    quiet: bool
    show_code: bool
    colour: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be asked, checked as far as it can be without the service."""

    request: RunRequest
    """Without its contexts, which are yet to be stored."""
    sources: tuple[Found, ...]
    sandbox: Literal["process", "docker"] | None = None
    """What is to start its sandboxes, where that is not what the settings say."""


def check(options: AskOptions) -> Question:
    """The question behind the command line.

    Raises:
        BadRequest: the first thing that is wrong, and what would be right.
    """
    if options.more:
        raise BadRequest(
            f"one question is expected, found {options.question[:40]!r} and {options.more[0][:40]!r} besides: "
            "put the question in quotes, and a glob too, as in -c '*.txt'"
        )
    profile = None if options.profile is None else _read_profile(options.profile)
    root_model = options.model or (profile.root if profile is not None else None)
    if root_model is None:
        raise BadRequest(
            "which model is to drive the run? Give --model, such as --model openai/gpt-5-mini "
            "(with OPENAI_API_KEY set), or --model scripted/root to try the service without a provider"
        )
    if not options.contexts and options.session is None:
        raise BadRequest(
            "what is the question about? Give at least one -c FILE, directory, glob, stored context or - for stdin"
        )
    encoding = None if options.encoding is None else given_encoding(options.encoding)
    if options.out is not None:
        check_target(options.out)
    request = RunRequest(
        question=options.question,
        contexts=(),
        root_model=root_model,
        sub_model=options.sub_model or (profile.sub if profile is not None else None) or root_model,
        limits=limits_of(options, profile),
        session_id=_session_id(options.session),
        answer_schema=_read_schema(options.schema),
        prompt_pack=DEFAULT_PACK if profile is None else profile.prompt_pack,
    )
    reading = Reading(encoding=encoding, documents_as_they_are=options.documents_as_they_are)
    return Question(request=request, sources=find_sources(options.contexts, reading), sandbox=_sandbox(options.sandbox))


def limits_of(options: AskOptions, profile: Profile | None = None) -> Limits:
    """The limits of the run: what was given, else the profile's, else the defaults.

    Raises:
        BadRequest: an option is outside what is possible.
    """
    given: dict[str, Any] = {
        "cost": _given_cost(options.max_cost),
        "turns": options.max_turns,
        "depth": options.max_depth,
        "tokens": options.max_tokens,
        "sub_calls": options.max_sub_calls,
        "wall_s": options.timeout_s,
        "cell_active_s": options.cell_timeout_s,
    }
    for name, option in OPTION_OF_LIMIT.items():
        least, most = LIMIT_RANGES[name]
        # `not (a <= b <= c)`, because NaN fails that too.
        if given[name] is not None and not least <= given[name] <= most:
            raise BadRequest(f"{option} must be between {least:,} and {most:,}, found {given[name]}")
    limits: dict[str, Any] = {"cost": DEFAULT_COST} if profile is None else {"cost": DEFAULT_COST, **profile.limits}
    return replace(Limits(), **limits | {name: value for name, value in given.items() if value is not None})


def _given_cost(max_cost: str | None) -> NanoUSD | None:
    if max_cost is None:
        return None
    try:
        cost = parse_usd(max_cost)
    except ValueError as error:
        raise BadRequest(f"--max-cost: {error}") from None
    if not 0 < cost <= MAX_NANO_USD:
        raise BadRequest(f"--max-cost must be above $0 and at most {format_usd(NanoUSD(MAX_NANO_USD))}")
    return cost


def _read_profile(name: str) -> Profile:
    return read_configuration(read_settings().config_file).profile(name)


def _sandbox(text: str | None) -> Literal["process", "docker"] | None:
    match text:
        case None | "process" | "docker":
            return text
        case _:
            raise BadRequest(f"expected process or docker after --sandbox, found {text[:80]!r}")


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
