"""How a run ends: which stop reason wins, whether there is a wrap-up, and what is returned.

The answer is looked at before any limit, so nothing here is reached by a turn that submitted. Every end returns the
best there is, labelled as what it is: a declared answer is `submitted`, the reply to a wrap-up `extracted`, anything
else `partial`. Best partial: the content of `answer` as last saved, else the newest text that was not accepted.
"""

from dataclasses import replace

from service.loop.commands import ANSWER, Finish
from service.loop.events import ValueRead
from service.loop.observation import clip
from service.loop.reply import parse, visible
from service.loop.state import Asking, Ending, Reading, RunState
from service.loop.transcript import sendable
from service.loop.values import AnswerSource, BlobRef, Purpose, StopReason

_MAX_MESSAGE_CHARS = 500

WHY = {
    StopReason.TURN_LIMIT: "the limit of turns is reached",
    StopReason.BUDGET: "the budget is used up",
    StopReason.TOKEN_LIMIT: "the token limit is reached",
    StopReason.DEADLINE: "the time is up",
    StopReason.SANDBOX_LOST: "the REPL was lost",
}


def answered(state: RunState, *, blob: BlobRef | None = None, text: str | None = None) -> RunState:
    """The model's own answer ends the run."""
    finish = Finish(
        stop_reason=StopReason.ANSWERED, answer_source=AnswerSource.SUBMITTED, answer=blob, answer_text=text
    )
    return replace(state, phase=Ending(finish=finish))


def cell_done(state: RunState) -> RunState:
    """A direct cell has run. Its result stands in the journal; a run without a root LM has no answer."""
    return replace(
        state, phase=Ending(finish=Finish(stop_reason=StopReason.CELL_DONE, answer_source=AnswerSource.PARTIAL))
    )


def extracted(state: RunState, reason: StopReason, *, blob: BlobRef | None = None, text: str | None = None) -> RunState:
    """The reply to the wrap-up ends the run."""
    finish = Finish(
        stop_reason=_final_reason(state, reason),
        answer_source=AnswerSource.EXTRACTED,
        answer=blob,
        answer_text=text,
        message=clip(state.stops.message, _MAX_MESSAGE_CHARS),
    )
    return replace(state, phase=Ending(finish=finish))


def partial(state: RunState, reason: StopReason, message: str = "") -> RunState:
    """The run ends with the best it has, which may be nothing."""
    finish = Finish(
        stop_reason=_final_reason(state, reason),
        answer_source=AnswerSource.PARTIAL,
        answer=state.partial,
        answer_text=(state.unaccepted or None) if state.partial is None else None,
        message=clip(message or state.stops.message, _MAX_MESSAGE_CHARS),
    )
    return replace(state, phase=Ending(finish=finish))


def _final_reason(state: RunState, reason: StopReason) -> StopReason:
    if state.stops.cancelled:
        return StopReason.CANCELLED
    return StopReason.DIVERGED if state.stops.diverged else reason


def stop(state: RunState) -> RunState:
    """Something from outside ends the run; the strongest reason decides how."""
    stops = state.stops
    if stops.cancelled:
        return partial(state, StopReason.CANCELLED)
    if stops.diverged:
        return partial(state, StopReason.DIVERGED)
    reason = StopReason.DEADLINE if stops.deadline_passed or stops.deadline_neared else StopReason.SANDBOX_LOST
    if all(message.role != "assistant" for message in state.messages):
        # Nothing was asked yet (the run waited for its turn all the time), so there is nothing to wrap up.
        return partial(state, reason)
    return wrap_up(state, reason)


def wrap_up(state: RunState, reason: StopReason) -> RunState:
    """A limit ends the run: ask for the answer one last time, if money and time were kept for that."""
    if state.submitted.wrap_up is None or state.stops.at_once:
        return partial(state, reason)
    return replace(state, phase=Asking(purpose=Purpose.WRAP_UP, reason=reason))


def wrapped_up(state: RunState, reason: StopReason, text: str) -> RunState:
    """The wrap-up was answered: a final if it holds one, else its prose, else what stands in its fence."""
    reply = parse(sendable(text))
    rest = reply.prose or reply.fenced or "\n".join(reply.blocks)
    prefers_fence = state.submitted.answer_schema is not None and reply.fenced
    said = reply.fenced if prefers_fence else rest
    match reply.final:
        case None:
            return _extracted_text(state, reason, said)
        case final if final.kind == "text":
            return _extracted_text(state, reason, final.value)
        case final if state.stops.sandbox_lost:
            return partial(state, reason, f"the wrap-up named the variable {final.value}, which is lost")
        case final:
            limit = state.submitted.limits.answer_bytes
            reading = Reading(variable=final.value, why="wrap_up", limit_bytes=limit, reason=reason)
            return replace(state, phase=replace(reading, fallback=_without_final(text)))


def _without_final(text: str) -> str:
    lines = visible(sendable(text)).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("FINAL_VAR(")).strip()


def _extracted_text(state: RunState, reason: StopReason, text: str) -> RunState:
    if not text.strip():
        return partial(state, reason)
    if len(text.encode()) > state.submitted.limits.answer_bytes:
        return partial(state, reason, "the reply to the wrap-up is larger than the answer may be")
    return extracted(state, reason, text=text)


def wrap_up_value_read(state: RunState, reading: Reading, event: ValueRead | None) -> RunState:
    """The variable that the wrap-up named was read, or could not be (None: its sandbox is lost)."""
    if event is not None and event.outcome == "read" and event.blob is not None:
        return extracted(state, reading.reason, blob=event.blob)
    if reading.variable == ANSWER and state.partial is not None:
        return extracted(state, reading.reason, blob=state.partial)
    return _extracted_text(state, reading.reason, reading.fallback)
