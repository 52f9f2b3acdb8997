"""What a person sees of a run while it goes: events in, lines out. Pure; `screen` puts the lines somewhere.

`advance` folds one event into what has been seen and returns the lines that it deserves; `status_line` is the one
line that a terminal keeps updating underneath. Everything a model or a file wrote passes through `visible`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from service.cli.cell_lines import lines_of
from service.cli.counts import counted as _count
from service.cli.counts import refused_text
from service.cli.lines import Line, Style, bounded, short
from service.cli.visible import visible_line
from service.loop import reply
from service.loop.events import (
    CallFinished,
    CancelRequested,
    CellFinished,
    ChildRunFinished,
    DeadlineNeared,
    DeadlinePassed,
    Event,
    HostCallAnswered,
    NamespaceRebuilt,
    RootUnavailable,
    RunFinished,
    RunSubmitted,
    RunTakenOver,
    SandboxAcquired,
    SandboxLost,
    ValueRead,
)
from service.loop.values import (
    AnswerSource,
    CallOutcome,
    CellResult,
    Limits,
    Purpose,
    StopReason,
)
from service.money import NanoUSD, format_usd
from service.runs.views import refused_sub_calls

MAX_CODE_LINES = 60
MAX_PROSE_LINES = 4
SUB_CALLS_PER_LINE = 100
"""Where nothing can be updated in place, one line per this many sub-calls shows that the run is alive."""


_NOTHING = NanoUSD(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What has been seen of one run so far."""

    show_code: bool = True
    phase: str = "starting"
    turns: int = 0
    cells: int = 0
    sub_calls: int = 0
    failed_sub_calls: int = 0
    sub_calls_told: int = 0
    """How many of them the lines have spoken of."""
    refused_told: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    """Sub-calls that were not made, by the limit that forbade them."""
    child_runs: int = 0
    spent: NanoUSD = _NOTHING
    limits: Limits | None = None


def status_line(progress: Progress) -> str:
    """The line that is updated in place."""
    parts = [progress.phase]
    if progress.turns:
        parts.append(f"turn {progress.turns}")
    if progress.sub_calls or progress.refused:
        parts.append(_sub_calls(progress))
    if progress.child_runs:
        parts.append(_count(progress.child_runs, "child run"))
    parts.append(_money(progress))
    return " · ".join(parts)


def advance(progress: Progress, event: Event) -> tuple[Progress, tuple[Line, ...]]:  # noqa: PLR0912  # one arm per event
    """Fold one event in; return what is now known and the lines to show for it."""
    match event:
        case RunSubmitted():
            return _submitted(progress, event)
        case SandboxAcquired():
            return progress, (Line(f"sandbox {event.sandbox_id} · isolation {visible_line(event.isolation, 40)}"),)
        case CallFinished(purpose=Purpose.SUB_CALL):
            return _sub_call_finished(progress, event)
        case CallFinished():
            return _root_call_finished(progress, event)
        case RootUnavailable(outcome=CallOutcome.CANCELLED):
            return progress, ()
        case RootUnavailable():
            what = _PURPOSE[event.purpose]
            return progress, (Line(f"{what} failed ({event.outcome}): {short(event.message)}", Style.WARNING),)
        case HostCallAnswered():
            return _host_call_answered(progress, event), ()
        case ChildRunFinished():
            return _child_run_finished(progress, event)
        case CellFinished():
            return _cell_finished(progress, event.result)
        case ValueRead():
            return _value_read(progress, event)
        case NamespaceRebuilt():
            lost = f"; lost: {short(', '.join(event.missing))}" if event.missing else ""
            return progress, (Line(f"namespace rebuilt from {_count(event.cells, 'cell')}{lost}", Style.WARNING),)
        case RunTakenOver():
            uncertain = (
                f"; charged though lost: {_count(event.uncertain_calls, 'call')}" if event.uncertain_calls else ""
            )
            return progress, (Line(f"taken over by another replica{uncertain}", Style.WARNING),)
        case SandboxLost():
            return progress, (Line(f"sandbox lost: {short(event.message)}", Style.WARNING),)
        case DeadlineNeared():
            seen = replace(progress, phase="wrapping up")
            return seen, (Line("the deadline is near: wrapping up", Style.WARNING),)
        case DeadlinePassed():
            return progress, (Line("the deadline has passed", Style.WARNING),)
        case CancelRequested():
            return replace(progress, phase="cancelling"), ()
        case RunFinished():
            return _run_finished(progress, event)
        case _:
            assert_never(event)


def _submitted(progress: Progress, event: RunSubmitted) -> tuple[Progress, tuple[Line, ...]]:
    limits = event.limits
    bounds = [_count(limits.turns, "turn"), f"{limits.wall_s:g} s"]
    if limits.cost is not None:
        bounds.append(format_usd(limits.cost))
    if limits.tokens is not None:
        bounds.append(f"{limits.tokens:,} tokens")
    if limits.sub_calls is not None:
        bounds.append(_count(limits.sub_calls, "sub-call"))
    lines = [
        Line(f"run {event.run_id}", Style.HEADING),
        Line(f"root LM {visible_line(event.root_model)} · sub-calls {visible_line(event.sub_model)}"),
        Line(f"at most {', '.join(bounds)}"),
    ]
    for shown in event.contexts:
        what = f"{visible_line(shown.type_name, 40)}, {_count(shown.length, shown.unit.removesuffix('s'))}"
        lines.append(Line(f"{visible_line(shown.variable, 80)}: {what}"))
    return replace(progress, phase="asking the root LM", limits=limits), tuple(lines)


def _root_call_finished(progress: Progress, event: CallFinished) -> tuple[Progress, tuple[Line, ...]]:
    seen = replace(progress, spent=NanoUSD(progress.spent + event.cost))
    what = _PURPOSE[event.purpose]
    if event.outcome is CallOutcome.CANCELLED:
        return seen, ()  # the end of the run says it
    if event.outcome is not CallOutcome.OK:
        return seen, (Line(f"{what}: {event.outcome}: {short(event.text)}", Style.WARNING),)
    bill = f"{event.usage.input_tokens:,} tokens in, {event.usage.output_tokens:,} out, {format_usd(event.cost)}"
    if event.purpose is not Purpose.TURN:
        return seen, (Line(f"{what} · {bill}", Style.HEADING),)
    read = reply.parse(event.text)
    phase = "running code" if read.blocks else "asking the root LM"
    seen = replace(seen, turns=progress.turns + 1, phase=phase)
    lines = [Line(f"turn {seen.turns} · {bill}", Style.HEADING)]
    if not progress.show_code and not read.blocks:
        lines.append(Line("no code in the reply"))
    if progress.show_code:
        lines += bounded([line for line in read.prose.splitlines() if line.strip()], MAX_PROSE_LINES, Style.OUTPUT, "")
        for block in read.blocks:
            lines += bounded(block.strip("\n").splitlines(), MAX_CODE_LINES, Style.CODE, "│ ")
    return seen, tuple(lines)


def _sub_call_finished(progress: Progress, event: CallFinished) -> tuple[Progress, tuple[Line, ...]]:
    failed = event.outcome is not CallOutcome.OK
    seen = replace(
        progress,
        sub_calls=progress.sub_calls + 1,
        failed_sub_calls=progress.failed_sub_calls + failed,
        spent=NanoUSD(progress.spent + event.cost),
    )
    if seen.sub_calls % SUB_CALLS_PER_LINE:
        return seen, ()
    return replace(seen, sub_calls_told=seen.sub_calls), (Line(f"{_sub_calls(seen)} · {_money(seen)}", Style.PULSE),)


def _host_call_answered(progress: Progress, event: HostCallAnswered) -> Progress:
    refused = refused_sub_calls(event)
    if not refused:
        return progress
    counted = {limit: progress.refused.get(limit, 0) + refused.get(limit, 0) for limit in {*progress.refused, *refused}}
    return replace(progress, refused=counted)


def _child_run_finished(progress: Progress, event: ChildRunFinished) -> tuple[Progress, tuple[Line, ...]]:
    child = event.child
    seen = replace(progress, child_runs=progress.child_runs + 1, spent=NanoUSD(progress.spent + child.spent))
    style = Style.PLAIN if child.stop_reason is StopReason.ANSWERED else Style.WARNING
    text = f"child run {child.run_id} {child.stop_reason} · {_count(child.sub_calls, 'sub-call')}"
    return seen, (Line(f"{text} · {format_usd(child.spent)}", style),)


def _cell_finished(progress: Progress, result: CellResult) -> tuple[Progress, tuple[Line, ...]]:
    seen = replace(
        progress,
        cells=progress.cells + 1,
        sub_calls_told=progress.sub_calls,
        refused_told=progress.refused,
        phase="asking the root LM",
    )
    lines: list[Line] = []
    if progress.sub_calls != progress.sub_calls_told or progress.refused != progress.refused_told:
        lines.append(Line(f"{_sub_calls(progress)} · {_money(progress)}", Style.PULSE))
    return seen, (*lines, *lines_of(result, with_output=progress.show_code))


def _value_read(progress: Progress, event: ValueRead) -> tuple[Progress, tuple[Line, ...]]:
    name = visible_line(event.variable, 80)
    if event.outcome == "read":
        size = event.blob.size_bytes if event.blob is not None else 0
        return progress, (Line(f"read {name}: {_count(size, 'byte')}", Style.OUTPUT),)
    reason = f": {short(event.message)}" if event.message else ""
    return progress, (Line(f"could not read {name}: {event.outcome.replace('_', ' ')}{reason}", Style.WARNING),)


def _run_finished(progress: Progress, event: RunFinished) -> tuple[Progress, tuple[Line, ...]]:
    seen = replace(progress, spent=event.spent, phase="finished")
    counted = [_count(seen.turns, "turn"), _count(seen.cells, "cell"), _sub_calls(seen)]
    if seen.child_runs:
        counted.append(_count(seen.child_runs, "child run"))
    size = event.answer.size_bytes if event.answer is not None else 0
    answered = event.stop_reason is StopReason.ANSWERED
    style = Style.GOOD if answered and event.answer_source is AnswerSource.SUBMITTED else Style.WARNING
    source = "" if event.answer_source is AnswerSource.SUBMITTED else f" ({event.answer_source})"
    answer = f"answer{source} of {_count(size, 'byte')}" if size or answered else "no answer"
    lines = [
        Line(f"{_STOPPED[event.stop_reason]} · {answer}", style),
        Line(f"{', '.join(counted)} · {_money(seen)}"),
    ]
    if event.message:
        lines.insert(1, Line(short(event.message), Style.PLAIN if style is Style.GOOD else Style.WARNING))
    return seen, tuple(lines)


def _sub_calls(progress: Progress) -> str:
    failed = f" ({progress.failed_sub_calls:,} failed)" if progress.failed_sub_calls else ""
    return _count(progress.sub_calls, "sub-call") + failed + refused_text(progress.refused)


def _money(progress: Progress) -> str:
    limit = progress.limits.cost if progress.limits is not None else None
    return format_usd(progress.spent) + (f" of {format_usd(limit)}" if limit is not None else "")


_PURPOSE = {
    Purpose.TURN: "root call",
    Purpose.WRAP_UP: "wrap-up call",
    Purpose.COMPACTION: "compaction call",
    Purpose.SUB_CALL: "sub-call",
    Purpose.DIRECT: "direct call",
}

_STOPPED = {
    StopReason.ANSWERED: "answered",
    StopReason.CELL_DONE: "the cell has run",
    StopReason.TURN_LIMIT: "stopped at the turn limit",
    StopReason.BUDGET: "stopped: what is left of the budget does not cover another call",
    StopReason.TOKEN_LIMIT: "stopped at the token limit",
    StopReason.DEADLINE: "stopped at the deadline",
    StopReason.CANCELLED: "cancelled",
    StopReason.NO_PROGRESS: "stopped: the root LM made no progress",
    StopReason.ANSWER_TOO_LARGE: "stopped: the answer is larger than its limit",
    StopReason.SANDBOX_LOST: "stopped: the sandbox was lost",
    StopReason.DIVERGED: "stopped: cells that were run again ended otherwise",
    StopReason.MODEL_FAILED: "stopped: the root LM could not be had",
    StopReason.SUSPENDED: "stopped: its tenant is suspended",
    StopReason.STORE_FAILED: "stopped: the store failed",
    StopReason.INTERNAL_ERROR: "stopped by a defect of the service",
}
