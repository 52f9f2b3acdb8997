"""What a run looks like on its way in and out."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from service.errors import BadRequest
from service.ids import ContextId, SessionId
from service.loop.values import AnswerSource, ContextBinding, DivergencePolicy, Limits, StopReason, Tool
from service.money import NanoUSD, parse_usd
from service.runs.submission.first_event import MAX_CONTEXTS, MAX_QUESTION_CHARS, MAX_TOOLS
from service.runs.values import LIMIT_RANGES, RunRequest, RunView
from service.tenants.values import Caller
from service.web.patterns import CONTEXT_ID, SESSION_ID
from service.web.shapes import MAX_MODEL_CHARS, Money, Shape, Shown, UsdText, example, money

DEFAULT_COST = "1.00"
MAX_SEQ = 2**53 - 1
MAX_TURN = 10_000

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODEL_CHARS)]

EXAMPLE_OF_RUN: dict[str, Any] = {
    "run_id": "run_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "status": "finished",
    "session_id": "ses_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "parent_run_id": None,
    "depth": 0,
    "question": "Which customers complained twice, and about what?",
    "root_model": "openai/gpt-5-mini",
    "sub_model": "openai/gpt-5-nano",
    "submitted_at": 1763640000.0,
    "finished_at": 1763640042.5,
    "stop_reason": "answered",
    "answer": {
        "source": "submitted",
        "size_bytes": 4,
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "media": "text",
        "text": "test",
    },
    "message": "",
    "turns": 3,
    "cells": 3,
    "sub_calls": 12,
    "refused_sub_calls": {},
    "child_runs": 0,
    "input_tokens": 48_210,
    "output_tokens": 1_904,
    "spent": {"usd": "0.0123", "nano_usd": 12_300_000},
    "cost_limit": {"usd": "0.50", "nano_usd": 500_000_000},
    "sandboxes": [
        {
            "sandbox_id": "sbx_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
            "cpu_s": 0.41,
            "memory_peak_bytes": 41_943_040,
            "held_s": 42.4,
        }
    ],
    "forked_from": None,
    "imported_from": None,
    "take_overs": 0,
    "uncertain_calls": 0,
}


class GivenContext(Shape):
    """A stored context that the run is about."""

    context_id: Annotated[str, StringConstraints(pattern=CONTEXT_ID)]
    variable: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(
        default=None, description="A name in the REPL besides `context_N`."
    )


class GivenTool(Shape):
    """Something of yours that the run's code can use: Python source that is executed once, or a JSON value."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    code: str | None = None
    value_json: str | None = Field(default=None, description="JSON text.")
    scope: Literal["root", "sub", "both"] = "both"


def _range(limit: str) -> dict[str, Any]:
    """For the OpenAPI document. The check itself is where runs are submitted, whatever the door."""
    least, most = LIMIT_RANGES[limit]
    return {"minimum": least, "maximum": most}


class GivenRunLimits(Shape):
    """What the run may use at most. What is left out has its default; null means no limit of that kind."""

    cost_usd: UsdText | None = Field(default=DEFAULT_COST, description="Decimal USD over all calls.")
    turns: int = Field(default=30, json_schema_extra=_range("turns"))
    depth: int = Field(default=1, description="Levels of child runs.", json_schema_extra=_range("depth"))
    tokens: int | None = Field(default=None, json_schema_extra=_range("tokens"))
    sub_calls: int | None = Field(default=None, json_schema_extra=_range("sub_calls"))
    wall_s: float = Field(default=1800.0, strict=False, json_schema_extra=_range("wall_s"))
    cell_active_s: float = Field(default=120.0, strict=False, json_schema_extra=_range("cell_active_s"))


class RunSubmission(Shape):
    """One question over one or more contexts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": "Which customers complained twice, and about what?",
                    "contexts": [{"context_id": "ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"}],
                    "root_model": "openai/gpt-5-mini",
                    "sub_model": "openai/gpt-5-nano",
                    "limits": {"cost_usd": "0.50"},
                },
                {
                    "question": "And which of them were answered?",
                    "root_model": "openai/gpt-5-mini",
                    "session_id": "ses_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
                },
            ]
        }
    )

    question: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUESTION_CHARS)]
    contexts: Annotated[list[GivenContext], Field(fail_fast=True, max_length=MAX_CONTEXTS)] = Field(
        default_factory=list,
        description="What it is about, at least one; may be left out with a `session_id`, whose variables are there.",
    )
    root_model: ModelName = Field(description="The root LM.")
    sub_model: ModelName | None = Field(default=None, description="The model of sub-calls; the root LM if left out.")
    limits: GivenRunLimits = Field(default_factory=GivenRunLimits)
    session_id: Annotated[str, StringConstraints(pattern=SESSION_ID)] | None = Field(
        default=None, description="Run in this session, with its variables; one of its own if left out."
    )
    answer_schema: dict[str, Any] | None = Field(default=None, description="JSON Schema that the answer must satisfy.")
    tools: Annotated[list[GivenTool], Field(fail_fast=True, max_length=MAX_TOOLS)] = Field(default_factory=list)
    prompt_pack: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "default"
    on_divergence: DivergencePolicy | None = Field(
        default=None,
        description="When a cell that has to be run again does not end as it had: `tell` the root LM what is lost and "
        "go on, or `stop` the run (as `diverged`). Left out: as the operator has set it.",
    )

    def request(self, caller: Caller) -> RunRequest:
        """What `runs` is asked for, on the account of this key.

        Raises:
            BadRequest: an amount cannot be one.
        """
        return RunRequest(
            question=self.question,
            contexts=tuple(
                ContextBinding(context_id=ContextId(each.context_id), variable=each.variable) for each in self.contexts
            ),
            root_model=self.root_model,
            sub_model=self.sub_model or self.root_model,
            limits=limits_of(self.limits),
            session_id=None if self.session_id is None else SessionId(self.session_id),
            answer_schema=self.answer_schema,
            tools=tuple(
                Tool(name=tool.name, code=tool.code, value_json=tool.value_json, scope=tool.scope)
                for tool in self.tools
            ),
            prompt_pack=self.prompt_pack,
            on_divergence=self.on_divergence,
            key_id=caller.key.id,
            key_ancestors=caller.key.ancestors,
        )


def limits_of(given: GivenRunLimits) -> Limits:
    """Raises `BadRequest`: the amount cannot be one."""
    try:
        cost = None if given.cost_usd is None else parse_usd(given.cost_usd)
    except ValueError as error:
        raise BadRequest(f"limits.cost_usd: {error}", data={"param": "limits.cost_usd"}) from None
    return Limits(
        cost=cost,
        turns=given.turns,
        depth=given.depth,
        tokens=given.tokens,
        sub_calls=given.sub_calls,
        wall_s=given.wall_s,
        cell_active_s=given.cell_active_s,
    )


class ShownAnswer(Shown):
    """The answer's facts; `GET …/answer` has the answer itself."""

    source: AnswerSource
    size_bytes: int
    sha256: str
    media: Literal["text", "json"]
    text: str | None = Field(description="The answer, when it is small enough to stand here; null otherwise.")


class ShownSandboxUse(Shown):
    """What one sandbox used while the run had it; null where it ended before it was measured."""

    sandbox_id: str
    cpu_s: float | None
    memory_peak_bytes: int | None
    held_s: float


class ShownFork(Shown):
    """Where a fork has its first turns from."""

    run_id: str
    from_turn: int = Field(description="The first turn that is the fork's own.")


class ShownRun(Shown):
    """A run as it stands."""

    model_config = example(EXAMPLE_OF_RUN)

    run_id: str
    status: Literal["running", "finished"]
    session_id: str
    parent_run_id: str | None
    depth: int
    question: str
    root_model: str
    sub_model: str
    submitted_at: float
    finished_at: float | None
    stop_reason: StopReason | None = Field(description="Why it ended; null while it runs.")
    answer: ShownAnswer | None
    message: str
    turns: int
    cells: int
    sub_calls: int
    refused_sub_calls: dict[str, int]
    child_runs: int
    input_tokens: int
    output_tokens: int
    spent: Money
    cost_limit: Money | None
    sandboxes: list[ShownSandboxUse] = Field(
        description="What each sandbox of the run used, measured from outside; empty while it runs. Those of child "
        "runs stand in the children's."
    )
    forked_from: ShownFork | None = Field(description="Null for a run that is no fork.")
    imported_from: str | None = Field(description="Of an imported run: its id where it ran.")
    take_overs: int = Field(description="How often another replica, or the next start, went on with it.")
    uncertain_calls: int = Field(
        description="Calls, child runs' included, that were in flight then: charged at all that they can have cost."
    )


def shown_run(view: RunView, answer_text: str | None = None) -> ShownRun:
    answer = None
    if view.answer is not None and view.answer_source is not None:
        answer = ShownAnswer(
            source=view.answer_source,
            size_bytes=view.answer.size_bytes,
            sha256=view.answer.sha256,
            media=view.answer.media,
            text=answer_text,
        )
    return ShownRun(
        run_id=view.run_id,
        status="running" if view.stop_reason is None else "finished",
        session_id=view.session_id,
        parent_run_id=view.parent_run_id,
        depth=view.depth,
        question=view.question,
        root_model=view.root_model,
        sub_model=view.sub_model,
        submitted_at=view.submitted_at,
        finished_at=view.finished_at,
        stop_reason=view.stop_reason,
        answer=answer,
        message=view.message,
        turns=view.turns,
        cells=view.cells,
        sub_calls=view.sub_calls,
        refused_sub_calls=dict(view.refused_sub_calls),
        child_runs=view.child_runs,
        input_tokens=view.input_tokens,
        output_tokens=view.output_tokens,
        spent=money(view.spent),
        cost_limit=None if view.cost_limit is None else money(NanoUSD(view.cost_limit)),
        sandboxes=[
            ShownSandboxUse(
                sandbox_id=use.sandbox_id,
                cpu_s=use.cpu_s,
                memory_peak_bytes=use.memory_peak_bytes,
                held_s=use.held_s,
            )
            for use in view.sandboxes
        ],
        forked_from=None
        if view.forked_from is None
        else ShownFork(run_id=view.forked_from.run_id, from_turn=view.forked_from.from_turn),
        imported_from=view.imported_from,
        take_overs=view.take_overs,
        uncertain_calls=view.uncertain_calls,
    )
