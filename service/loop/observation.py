"""Observations: the bounded text of a cell's result that the root LM sees.

The order is always the same, so that a model can learn it: standard output, standard error, traceback, the names
of variables bound, failed sub-calls. Text over the limit keeps its head *and* its tail and states its true
length. Whatever a cell printed is data: it is fenced off by our own lines and never by anything it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.loop.values import CapturedText, CellResult, CellStatus, Limits
from service.money import NanoUSD, format_usd

_MIN_SHARE_CHARS = 200
_MAX_VARIABLES_SHOWN = 40
_MAX_DETAIL_CHARS = 500
NO_MONEY = NanoUSD(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallFailures:
    """How the host calls of one cell went: failed items by outcome."""

    items: int = 0
    by_outcome: tuple[tuple[str, int], ...] = ()

    def with_call(self, items: int, failures: Sequence[str]) -> "SubCallFailures":
        """Counting one more host call."""
        counts = dict(self.by_outcome)
        for outcome in failures:
            name = outcome if outcome in counts or len(counts) < 12 else "other"
            counts[name] = counts.get(name, 0) + 1
        return SubCallFailures(items=self.items + max(items, len(failures)), by_outcome=tuple(sorted(counts.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run has used so far, child runs included: the loop's own sums, for showing."""

    nano_usd: NanoUSD = NO_MONEY
    tokens: int = 0
    sub_calls: int = 0


def observe(result: CellResult, failures: SubCallFailures, limit_chars: int) -> str:
    """The observation of one cell, at most `limit_chars` characters."""
    parts = _heading(result)
    facts = _facts(result, failures)
    streams = [("stdout", result.stdout), ("stderr", result.stderr)]
    shown = [(name, stream) for name, stream in streams if stream.head or stream.tail]
    raised = result.raised
    traceback = (raised.traceback or f"{raised.type_name}: {raised.message}") if raised else ""
    room = max(0, limit_chars - sum(len(part) + 1 for part in parts + facts) - 40 * (len(shown) + 1))
    for_traceback = min(len(traceback), max(room // 2, _MIN_SHARE_CHARS))
    for (name, stream), share in zip(shown, _shares(shown, room - for_traceback), strict=True):
        parts += [f"[{name}]", clip_captured(stream, share)]
    if traceback:
        parts += ["[traceback]", clip(traceback, for_traceback)]
    return clip("\n".join(parts + facts), limit_chars)


def _heading(result: CellResult) -> list[str]:
    detail = f": {clip(result.detail, _MAX_DETAIL_CHARS)}" if result.detail else "."
    match result.status:
        case CellStatus.OK:
            has_output = bool(result.stdout.head or result.stdout.tail or result.stderr.head or result.stderr.tail)
            return [] if has_output else ["The cell ran and printed nothing."]
        case CellStatus.RAISED:
            return ["The cell raised an exception; what it assigned before that is kept."]
        case CellStatus.TIMED_OUT:
            return [f"The cell was stopped because it ran too long{detail}"]
        case CellStatus.KILLED:
            return [f"The cell was killed{detail}"]


def _facts(result: CellResult, failures: SubCallFailures) -> list[str]:
    facts = []
    if result.variables:
        names = ", ".join(result.variables[:_MAX_VARIABLES_SHOWN])
        more = len(result.variables) - _MAX_VARIABLES_SHOWN
        facts.append(clip(f"[variables] {names}" + (f" and {more} more" if more > 0 else ""), 2000))
    failed = sum(count for _, count in failures.by_outcome)
    if failed:
        kinds = ", ".join(f"{count} {clip(outcome, 40).replace('_', ' ')}" for outcome, count in failures.by_outcome)
        facts.append(f"[sub-calls] {failed} of {failures.items} sub-calls failed: {kinds}.")
    return facts


def _shares(streams: Sequence[tuple[str, CapturedText]], room: int) -> list[int]:
    """Split the room between streams: a short one takes what it needs, a long one the rest."""
    needs = [len(stream.head) + len(stream.tail) for _, stream in streams]
    if len(needs) < 2 or sum(needs) <= room:
        return [max(room, _MIN_SHARE_CHARS)] * len(needs)
    half = max(room // 2, _MIN_SHARE_CHARS)
    return [max(half, room - min(needs[1], half)), max(half, room - min(needs[0], half))]


def clip_captured(stream: CapturedText, limit_chars: int) -> str:
    """The beginning and the end of a captured stream; what is missing between is counted in bytes."""
    if not stream.tail:
        return clip(stream.head.rstrip("\n"), limit_chars)
    keep = max(limit_chars - 80, _MIN_SHARE_CHARS) // 2
    head, tail = stream.head[:keep], stream.tail[-keep:]
    return f"{head}\n[… shortened: {stream.size_bytes} bytes in all, beginning and end shown …]\n{tail}".rstrip("\n")


def clip(text: str, limit_chars: int) -> str:
    """`text`, or its head and tail around a line that states its true length. Never longer than the limit."""
    if len(text) <= limit_chars:
        return text
    notice = f"\n[… shortened: {len(text)} characters in all, beginning and end shown …]\n"
    keep = limit_chars - len(notice)
    if keep < 2:
        return text[: max(limit_chars, 0)]
    tail = keep // 2
    return text[: keep - tail] + notice + text[len(text) - tail :]


def join(observations: Sequence[str], limit_chars: int) -> str:
    """The observations of a turn's cells in order, each with its fair share when they are too long together."""
    if len(observations) == 1:
        return clip(observations[0], limit_chars)
    blocks = [f"Block {number}:\n{text}" for number, text in enumerate(observations, start=1)]
    if sum(len(block) + 2 for block in blocks) > limit_chars:
        share = max(limit_chars // len(blocks) - 2, _MIN_SHARE_CHARS)
        blocks = [clip(block, share) for block in blocks]
    return clip("\n\n".join(blocks), limit_chars)


def budget_line(
    limits: Limits, spent: Spent, *, turns_left: int, seconds_left: float, outer_left: NanoUSD | None = None
) -> str:
    """What is left, in one line of its own; kinds without a limit say what was used.

    Of the run's own money and that of its session, API key and tenant (`outer_left`) the smaller is told.
    """
    parts = [f"{max(turns_left, 0)} turns", f"{max(int(seconds_left), 0)} s"]
    own_left = None if limits.cost is None else NanoUSD(max(limits.cost - spent.nano_usd, 0))
    if outer_left is not None and (own_left is None or outer_left < own_left):
        parts.append(f"{format_usd(outer_left)} (all that this run's session, key or tenant has left)")
    elif limits.cost is not None and own_left is not None:
        parts.append(f"{format_usd(own_left)} of {format_usd(limits.cost)}")
    else:
        parts.append(f"{format_usd(spent.nano_usd)} spent so far")
    if limits.tokens is not None:
        parts.append(f"{max(limits.tokens - spent.tokens, 0)} tokens")
    if limits.sub_calls is not None:
        parts.append(f"{max(limits.sub_calls - spent.sub_calls, 0)} sub-calls")
    return f"[left] {', '.join(parts)}."
