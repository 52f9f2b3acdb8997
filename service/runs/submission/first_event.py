"""From a request to the first event: everything is checked, priced and rendered before the run exists.

Pure, apart from what it is given: it reads no store and no clock.
"""

import builtins
import hashlib
import json
import keyword
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandbox_image.protocol import MAX_CODE_BYTES
from service.contexts.values import Context
from service.errors import BadRequest, Fault, RlmServiceError
from service.ids import RunId, SessionId
from service.ledger.values import NOTHING, Amount
from service.loop.commands import AskRoot, RunCell
from service.loop.events import Event, RunSubmitted
from service.loop.machine import decide, replay
from service.loop.prompts import PromptFigures, PromptPack, render
from service.loop.values import (
    PREVIEW_CHARS,
    ContextShown,
    DivergencePolicy,
    HostCallKey,
    Limits,
    RenderedPrompt,
    Tool,
    WrapUp,
)
from service.models.catalog import Route
from service.models.prices import REQUEST_OVERHEAD_TOKENS, Price, bound, input_token_bound
from service.money import MAX_NANO_USD, NanoUSD, format_usd
from service.runs.calls.charges import OUTPUT_TOKENS_FLOOR
from service.runs.submission.schemas import MAX_CHECKED_CHARS, check_schema
from service.runs.values import LIMIT_RANGES, RunRequest

MAX_QUESTION_CHARS = 32_000
MAX_CONTEXTS = 1_000
MAX_TOOLS = 64
MAX_TOOL_BYTES = 1 << 20

ROOT_OUTPUT_TOKENS = 8_192
SUB_OUTPUT_TOKENS = 4_096
"""What a reply may have at most when money is no object. Every hold includes this much output, so it decides how many
calls fit a small budget at once."""
LEAST_OUTPUT_TOKENS = 512
WRAP_UP_OUTPUT_TOKENS = (2_048, 1_024, 512, 256)
WRAP_UP_INPUT_BYTES = (48_000, 24_000, 12_000, 6_000, 3_000)
WRAP_UP_SHARE = 3
"""At most a third of the budget is set aside for the wrap-up call."""

NO_PROMPT = RenderedPrompt(system="", pack="none", sha256=hashlib.sha256(b"").hexdigest())
"""Of a direct cell: nobody is told anything."""

_RESERVED = frozenset(
    {
        "context", "history", "answer", "llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched",
        "allm_query", "allm_query_batched", "arlm_query", "arlm_query_batched",
        "FINAL", "FINAL_VAR", "SUBMIT", "SHOW_VARS", "budget",
    }
)  # fmt: skip


class BudgetTooSmall(RlmServiceError):
    """The limits do not cover a single call, so the run could only fail."""

    code = "budget_too_small"
    fault = Fault.POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a child run has from its parent; a root run has none."""

    parent_run_id: RunId
    depth: int
    deadline_at: float
    origin: HostCallKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Everything that `first_event` needs besides the request."""

    run_id: RunId
    session_id: SessionId
    contexts: tuple[Context, ...]
    root_route: Route
    sub_route: Route
    pack: PromptPack
    at: float
    on_divergence: DivergencePolicy
    family: Family | None = None


def check_request(request: RunRequest) -> None:
    """Refuse what can be refused without looking anything up.

    Raises:
        BadRequest: the first thing that is wrong, and what would be right.
    """
    if request.code is not None:
        _check_direct_cell(request, request.code)
    elif not request.question.strip():
        raise BadRequest("the question is empty")
    if len(request.question) > MAX_QUESTION_CHARS:
        raise BadRequest(
            f"the question has {len(request.question)} characters, at most {MAX_QUESTION_CHARS} are allowed: "
            "put the long part into a context"
        )
    least = 1 if request.session_id is None else 0
    if not least <= len(request.contexts) <= MAX_CONTEXTS:
        how = "" if request.contexts else ": store one first (over HTTP POST /v1/contexts), or name a session"
        raise BadRequest(
            f"a run needs {least} to {MAX_CONTEXTS} contexts, found {len(request.contexts)}{how}",
            data={"param": "contexts"},
        )
    names = [binding.variable for binding in request.contexts if binding.variable is not None]
    names += [tool.name for tool in request.tools]
    for name in names:
        check_variable_name(name)
        if names.count(name) > 1:
            raise BadRequest(f"{name!r} is given twice: names must differ")
    if len(request.tools) > MAX_TOOLS:
        raise BadRequest(f"at most {MAX_TOOLS} tools can be given with a run, found {len(request.tools)}")
    for tool in request.tools:
        _check_tool(tool)
    if request.answer_schema is not None:
        check_schema(request.answer_schema)
    _check_limits(request.limits)


def first_event(request: RunRequest, submission: Submission) -> RunSubmitted:
    """The event that a run begins with. The same input gives the same event."""
    limits = request.limits
    if request.answer_schema is not None:
        # An answer under a schema is validated whole, so it cannot be of any size.
        limits = replace(limits, answer_bytes=min(limits.answer_bytes, MAX_CHECKED_CHARS))
    family = submission.family
    root, sub = submission.root_route, submission.sub_route
    depth = 0 if family is None else family.depth
    deadline_at = submission.at + limits.wall_s if family is None else family.deadline_at
    prompt = (
        NO_PROMPT
        if request.code is not None
        else render(
            submission.pack,
            PromptFigures(
                root_window_tokens=root.card.window_tokens,
                sub_model=sub.name,
                sub_window_tokens=sub.card.window_tokens,
                sub_input_nano_usd_per_mtok=sub.price.input,
                sub_output_nano_usd_per_mtok=sub.price.output,
                limits=limits,
                depth=depth,
                answer_is_json=request.answer_schema is not None,
            ),
        )
    )
    return RunSubmitted(
        at=submission.at,
        run_id=submission.run_id,
        session_id=submission.session_id,
        parent_run_id=None if family is None else family.parent_run_id,
        depth=depth,
        question=request.question,
        contexts=tuple(
            shown(index, binding.variable, context)
            for index, (binding, context) in enumerate(zip(request.contexts, submission.contexts, strict=True))
        ),
        root_model=root.name,
        sub_model=sub.name,
        root_window_tokens=root.card.window_tokens,
        root_max_output_tokens=output_tokens(root, limits.cost, default=ROOT_OUTPUT_TOKENS, share=4),
        limits=limits,
        prompt=prompt,
        wrap_up=plan_wrap_up(root, limits) if request.code is None else None,
        deadline_at=deadline_at,
        answer_schema=request.answer_schema,
        code=request.code,
        bindings=request.contexts,
        tools=request.tools,
        keeps_session=request.session_id is not None,
        key_id=request.key_id,
        key_ancestors=request.key_ancestors,
        origin=None if family is None else family.origin,
        profile=request.profile,
        on_divergence=submission.on_divergence,
    )


def shown(index: int, variable: str | None, context: Context) -> ContextShown:
    """What the root LM is told of a context."""
    return ContextShown(
        variable=variable or f"context_{index}",
        type_name=context.type_name,
        length=context.length,
        unit=context.unit,
        preview=context.preview[:PREVIEW_CHARS],
    )


def output_tokens(route: Route, cost_limit: NanoUSD | None, *, default: int, share: int) -> int:
    """How long a reply may be, so that its hold takes at most a `share`-th of the budget."""
    ceiling = min(default, route.card.max_output_tokens)
    if cost_limit is None:
        return ceiling
    tokens = ceiling
    while tokens > LEAST_OUTPUT_TOKENS and bound(route.price, 0, tokens) * share > cost_limit:
        tokens //= 2
    return max(min(LEAST_OUTPUT_TOKENS, ceiling), tokens)


def plan_wrap_up(route: Route, limits: Limits) -> WrapUp | None:
    """The largest wrap-up call that a third of the budget and of the tokens holds; None when not even the smallest."""
    ceiling = route.card.max_output_tokens
    window_bytes = route.card.window_tokens - min(WRAP_UP_OUTPUT_TOKENS[0], ceiling)
    for input_bytes in WRAP_UP_INPUT_BYTES:
        for tokens in WRAP_UP_OUTPUT_TOKENS:
            plan = WrapUp(
                input_bytes=min(input_bytes, max(1_000, window_bytes)), max_output_tokens=min(tokens, ceiling)
            )
            amount = wrap_up_amount(route.price, plan)
            if _is_share(amount.nano_usd, limits.cost) and _is_share(amount.tokens, limits.tokens):
                return plan
    return None


def _is_share(amount: int, limit: int | None) -> bool:
    return limit is None or amount * WRAP_UP_SHARE <= limit


def wrap_up_amount(price: Price, plan: WrapUp) -> Amount:
    """The most that the wrap-up call can use; held from the start, so that reaching a limit leaves room for it."""
    input_tokens = plan.input_bytes + REQUEST_OVERHEAD_TOKENS
    return Amount(
        nano_usd=bound(price, input_tokens, plan.max_output_tokens),
        tokens=input_tokens + plan.max_output_tokens,
        sub_calls=0,
    )


def check_affordable(submitted: RunSubmitted, route: Route, least: Amount) -> None:
    """Refuse a run whose limits do not even cover its first call (`first_call_amount`).

    Raises:
        BudgetTooSmall: the message says what they must cover.
    """
    limits = submitted.limits
    if limits.cost is not None and least.nano_usd > limits.cost:
        raise BudgetTooSmall(
            f"a budget of {format_usd(limits.cost)} does not cover one call of {route.name}, which can cost "
            f"{format_usd(least.nano_usd)}: raise the budget or choose a cheaper model"
        )
    if limits.tokens is not None and least.tokens > limits.tokens:
        raise BudgetTooSmall(
            f"a limit of {limits.tokens} tokens does not cover one call of {route.name}, which can take "
            f"{least.tokens}: raise the token limit"
        )


def first_call_amount(submitted: RunSubmitted, route: Route, inherited: Sequence[Event] = ()) -> Amount:
    """What has to be there so that the run can begin: its first call with a short reply, and the wrap-up's share."""
    command = decide(replay((submitted, *inherited)))
    if isinstance(command, RunCell):
        return NOTHING  # a direct cell need not call any model
    assert isinstance(command, AskRoot), "a run begins by asking the root LM"
    input_tokens = input_token_bound(command.messages)
    kept = NOTHING if submitted.wrap_up is None else wrap_up_amount(route.price, submitted.wrap_up)
    return Amount(
        nano_usd=NanoUSD(bound(route.price, input_tokens, OUTPUT_TOKENS_FLOOR) + kept.nano_usd),
        tokens=input_tokens + OUTPUT_TOKENS_FLOOR + kept.tokens,
        sub_calls=0,
    )


def _check_direct_cell(request: RunRequest, code: str) -> None:
    if request.session_id is None:
        raise BadRequest("a direct cell runs in a session: open one first")
    if request.question or request.answer_schema is not None:
        raise BadRequest("a direct cell asks no model, so it has neither a question nor an answer schema")
    if len(code.encode("utf-8", "surrogatepass")) > MAX_CODE_BYTES:
        raise BadRequest(f"a cell may have {MAX_CODE_BYTES} bytes of code: put the data into a context or a file")


def check_variable_name(name: str) -> None:
    """Raises `BadRequest` for what cannot name a variable, or means something already."""
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or len(name) > 64:
        raise BadRequest(f"{name[:80]!r} cannot be a variable name: use letters, digits and underscores, at most 64")
    if hasattr(builtins, name):
        raise BadRequest(f"{name!r} is one of Python's own names: choose another")
    if name in _RESERVED or (name.startswith(("context_", "history_")) and name.split("_", 1)[1].isdigit()):
        raise BadRequest(f"{name!r} is one of the REPL's own names: choose another")


def _check_tool(tool: Tool) -> None:
    if (tool.code is None) == (tool.value_json is None):
        raise BadRequest(f"tool {tool.name!r} needs either code or a JSON value")
    if len((tool.code or tool.value_json or "").encode("utf-8", "surrogatepass")) > MAX_TOOL_BYTES:
        raise BadRequest(f"tool {tool.name!r} is larger than {MAX_TOOL_BYTES} bytes: give it as a context")
    _check_tool_value(tool)


def _check_limits(limits: Limits) -> None:
    for name, (least, most) in LIMIT_RANGES.items():
        value: float | None = getattr(limits, name)
        # `not (a <= b <= c)` rather than `b < a or b > c`: NaN fails the first and passes the second.
        if value is not None and not least <= value <= most:
            raise BadRequest(f"the limit {name} must be between {least} and {most}, found {value}")
    if limits.cost is not None and not 0 < limits.cost <= MAX_NANO_USD:
        raise BadRequest(f"the budget must be above $0 and at most {format_usd(NanoUSD(MAX_NANO_USD))}")


def _check_tool_value(tool: Tool) -> None:
    """Raises `BadRequest` when the tool's value is not JSON."""
    if tool.value_json is None:
        return
    try:
        json.loads(tool.value_json)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"the value of tool {tool.name!r} is not valid JSON") from exc
