"""What a client is told of a run while it waits for the answer. Pure; bounded, whatever models and code wrote."""

from service.loop.events import (
    CallFinished,
    CellFinished,
    ChildRunFinished,
    DeadlineNeared,
    Event,
    HostCallAnswered,
    NamespaceRebuilt,
    RootUnavailable,
)
from service.loop.values import CallOutcome, CellStatus, Purpose

REPLY_CHARS = 4_000
OUTPUT_CHARS = 600


def thought_of(event: Event) -> str:
    """A few lines about an event; empty for one that tells a reader nothing."""
    match event:
        case CallFinished(purpose=Purpose.TURN | Purpose.WRAP_UP, outcome=CallOutcome.OK):
            return f"{_shortened(event.text.strip(), REPLY_CHARS)}\n\n"
        case CellFinished():
            return _of_cell(event)
        case HostCallAnswered(items=1):
            return "(one sub-call)\n"
        case HostCallAnswered():
            failed = f", {len(event.failures)} failed" if event.failures else ""
            return f"({event.items} sub-calls{failed})\n"
        case ChildRunFinished():
            return f"(a child run ended: {event.child.stop_reason})\n"
        case RootUnavailable():
            return "(the root LM cannot be had now)\n"
        case NamespaceRebuilt():
            return "(the sandbox was replaced and its variables built again)\n"
        case DeadlineNeared():
            return "(the time is nearly up)\n"
        case _:
            return ""


def _of_cell(event: CellFinished) -> str:
    result = event.result
    if result.status is CellStatus.OK:
        output = result.stdout.head.strip()
        return f"→ {_shortened(output, OUTPUT_CHARS)}\n\n" if output else ""
    what = result.raised.message if result.raised is not None else result.detail
    return f"→ {result.status}: {_shortened(what.strip(), OUTPUT_CHARS)}\n\n"


def _shortened(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]} […]"
