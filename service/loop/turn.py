"""One turn: a reply, its cells, what became of them, and what that means for the run.

The order in which things are looked at is the contract:

1. after each cell, a submitted answer; 2. else a changed partial answer, to save it; 3. a lost namespace;
4. the reply's next block; 5. after the last cell, the final in the reply's text; 6. only then any limit.
"""

import ast
import json
import re
from dataclasses import replace
from typing import assert_never

from service.ids import cell_id
from service.loop import compaction, ending, notices, transcript
from service.loop.commands import ANSWER
from service.loop.events import NamespaceRebuilt, ValueRead
from service.loop.observation import SubCallFailures, clip, join, observe
from service.loop.reply import Final, Reply, parse, visible
from service.loop.state import Asking, Ending, Reading, Rebuilding, Running, RunState, Turn
from service.loop.values import AnswerShown, CellResult, CellStatus, Purpose, StopReason

PARTIAL_LIMIT_BYTES = 1 << 20
MAX_CORRECTIONS = 3
"""Submitted answers that may be turned away as unusable; the next one ends the run."""

_SUBMITS = re.compile(r"\b(?:answer|FINAL|FINAL_VAR|SUBMIT)\b")


def begin(state: RunState) -> RunState:
    """Ask for the next turn, unless something ends the run or the conversation must be compacted first."""
    if state.stops.any:
        return ending.stop(state)
    if state.submitted.code is not None:
        return _direct_cell(state, state.submitted.code)
    if state.turn.number >= state.submitted.limits.turns:
        return ending.wrap_up(state, StopReason.TURN_LIMIT)
    if compaction.is_due(state):
        return replace(state, phase=Asking(purpose=Purpose.COMPACTION))
    return ask(state)


def _direct_cell(state: RunState, code: str) -> RunState:
    """No root LM is asked: the one cell that was given is run, and that was all."""
    if state.turn.number:
        return ending.cell_done(state)
    return _run(replace(state, turn=Turn(number=1)), code, is_submission=False)


def ask(state: RunState) -> RunState:
    """Ask for the next turn."""
    turn = Turn(number=state.turn.number + 1)
    return replace(state, turn=turn, phase=Asking(purpose=Purpose.TURN))


def replied(state: RunState, text: str) -> RunState:
    """The root LM has replied."""
    said = transcript.sendable(text)
    reply = parse(said)
    messages = (*state.messages, transcript.reply_message(visible(said)))
    state = replace(state, messages=messages, turn=replace(state.turn, reply=reply))
    if reply.blocks and state.stops.any:
        return _close(_noting(state, "The code of this reply was not run, because the run is about to end."))
    return _run_next(state, reply)


def _run_next(state: RunState, reply: Reply) -> RunState:
    turn = state.turn
    if turn.is_cut_short or turn.blocks_started >= len(reply.blocks):
        return _after_cells(state, reply)
    if state.stops.any:
        return _close(_noting(state, notices.BLOCKS_SKIPPED))
    code = reply.blocks[turn.blocks_started]
    return _run(state, code, is_submission=False)


def _run(state: RunState, code: str, *, is_submission: bool) -> RunState:
    turn = state.turn
    running = Running(
        cell_id=cell_id(state.submitted.run_id, turn.number, turn.blocks_started),
        code=code,
        is_submission=is_submission,
    )
    return replace(
        state,
        phase=running,
        turn=replace(turn, blocks_started=turn.blocks_started + 1),
        failures=SubCallFailures(),
        context_was_touched=state.context_was_touched or _touches_context(state, code),
    )


def _touches_context(state: RunState, code: str) -> bool:
    names = {context.variable for context in state.submitted.contexts} | {"context", "history"}
    return any(re.search(rf"\b{re.escape(name)}\b", code) for name in names) or "context_" in code


def cell_finished(state: RunState, running: Running, result: CellResult) -> RunState:
    """A block of the reply has run."""
    text = observe(result, state.failures, compaction.observation_limit(state.submitted))
    turn = replace(
        state.turn,
        observations=(*state.turn.observations, text),
        result=result,
        is_cut_short=result.status is not CellStatus.OK or result.namespace_lost or running.is_submission,
    )
    state = replace(state, turn=turn)
    if state.submitted.code is not None:
        return replace(state, phase=Rebuilding()) if result.namespace_lost else begin(state)
    shown = result.answer
    if shown is None:
        return _after_answer(state, result)
    if shown.ready:
        if shown.sha256 != state.rejected_sha256 or _SUBMITS.search(running.code):
            limit = state.submitted.limits.answer_bytes
            return _read(state, Reading(variable=ANSWER, why="submitted", limit_bytes=limit, sha256=shown.sha256))
        state = _noting(state, notices.ANSWER_UNCHANGED)
    if _is_new_partial(state, shown) and not result.namespace_lost:
        reading = Reading(variable=ANSWER, why="partial", limit_bytes=PARTIAL_LIMIT_BYTES, sha256=shown.sha256)
        return _read(state, reading)
    return _after_answer(state, result)


def _is_new_partial(state: RunState, shown: AnswerShown) -> bool:
    return 0 < shown.size_bytes <= PARTIAL_LIMIT_BYTES and shown.sha256 not in (
        state.partial_sha256,
        state.rejected_sha256,
    )


def _read(state: RunState, reading: Reading) -> RunState:
    return replace(state, phase=reading)


def _after_answer(state: RunState, result: CellResult) -> RunState:
    if result.namespace_lost and not state.stops.any:
        return replace(state, phase=Rebuilding())
    return _continue(state)


def _continue(state: RunState) -> RunState:
    reply = state.turn.reply
    return begin(state) if reply is None else _run_next(state, reply)


def namespace_rebuilt(state: RunState, event: NamespaceRebuilt) -> RunState:
    """The lost namespace is back, as far as that was possible."""
    return _continue(_noting(state, notices.namespace_rebuilt(event, state.submitted.run_id)))


def value_read(state: RunState, reading: Reading, event: ValueRead) -> RunState:
    """The value that was asked for has been read, or there is a reason why not."""
    match reading.why:
        case "wrap_up":
            return ending.wrap_up_value_read(state, reading, event)
        case "partial":
            if event.blob is not None:
                state = replace(state, partial=event.blob)
            return _after_cell_read(replace(state, partial_sha256=reading.sha256))
        case "submitted" | "named":
            return _declared_value_read(state, reading, event)
        case unreachable:
            assert_never(unreachable)


def _declared_value_read(state: RunState, reading: Reading, event: ValueRead) -> RunState:
    if event.outcome == "read" and event.blob is not None:
        return ending.answered(state, blob=event.blob)
    if event.blob is not None:
        state = replace(state, partial=event.blob, partial_sha256=reading.sha256)
    state = replace(
        state,
        rejected_sha256=reading.sha256 or state.rejected_sha256,
        turn=replace(state.turn, is_cut_short=True, is_rejected=True),
    )
    if event.outcome == "too_large":
        state = _too_large(state)
    elif event.outcome == "missing" and reading.why == "named":
        state = _noting(state, notices.missing_variable(reading.variable))
    else:
        state = _unusable(state, event.message)
    return _after_cell_read(state) if reading.why == "submitted" else _close_unless_ended(state)


def _after_cell_read(state: RunState) -> RunState:
    """Go on where the cell's end left off, unless the reading has just ended the run."""
    result = state.turn.result
    if isinstance(state.phase, Ending) or result is None:
        return state
    return _after_answer(state, result)


def _too_large(state: RunState) -> RunState:
    limit = state.submitted.limits.answer_bytes
    if state.was_too_large:
        return ending.partial(state, StopReason.ANSWER_TOO_LARGE, f"the answer is larger than {limit} bytes")
    return _noting(replace(state, was_too_large=True), notices.answer_too_large(limit))


def _unusable(state: RunState, message: str) -> RunState:
    reason = clip(transcript.sendable(message), 1_000)
    if state.corrections >= MAX_CORRECTIONS:
        return ending.partial(state, StopReason.NO_PROGRESS, f"no usable answer was submitted: {reason}")
    return _noting(replace(state, corrections=state.corrections + 1), notices.answer_unusable(reason))


def _noting(state: RunState, note: str) -> RunState:
    return state if note in state.notes else replace(state, notes=(*state.notes, note))


def _after_cells(state: RunState, reply: Reply) -> RunState:
    """All cells of the turn that will run have run: look at the final in its text."""
    turn = state.turn
    for miss in reply.near_misses:
        state = _noting(state, miss)
    if turn.blocks_started < len(reply.blocks):
        state = _noting(state, notices.BLOCKS_SKIPPED)
    if turn.is_rejected:
        return _close(state)
    if reply.final is not None:
        return _final(state, reply, reply.final)
    if turn.blocks_started == 0:
        return _empty(state, reply)
    return _close(replace(state, empty_replies=0))


def _final(state: RunState, reply: Reply, final: Final) -> RunState:
    state = replace(state, empty_replies=0)
    insists = final.kind == "text" and final.value == state.unaccepted
    if final.kind == "text":
        state = replace(state, unaccepted=final.value)
    if state.turn.is_cut_short:
        return _close(_noting(state, notices.FINAL_BESIDE_FAILED_CELL))
    is_last = state.stops.any or state.turn.number >= state.submitted.limits.turns
    if final.kind == "text" and reply.blocks and not (is_last or insists):
        return _close(_noting(state, notices.FINAL_BESIDE_CODE))
    if not is_last and _is_premature(state):
        return _close(_noting(state, notices.FIRST_TURN_FINAL))
    if final.kind == "text":
        return _literal(state, final.value)
    if state.stops.sandbox_lost:
        return _close(state)
    return _read(state, Reading(variable=final.value, why="named", limit_bytes=state.submitted.limits.answer_bytes))


def _is_premature(state: RunState) -> bool:
    """A final on the first turn, with contexts that no cell has looked at."""
    submitted = state.submitted
    questioned = submitted.limits.first_turn_final_is_questioned and bool(submitted.contexts)
    return questioned and state.turn.number == 1 and not state.context_was_touched


def _literal(state: RunState, text: str) -> RunState:
    """A literal final is taken. Where JSON is asked for, a cell of the loop's own submits it, so that it is read and
    validated like every other answer."""
    submitted = state.submitted
    if submitted.answer_schema is None:
        if len(text.encode()) > submitted.limits.answer_bytes:
            return _close_unless_ended(_too_large(state))
        return ending.answered(state, text=text)
    as_json = _json_meant(text, wants_string=submitted.answer_schema.get("type") == "string")
    if as_json is None:
        return _close_unless_ended(_unusable(state, notices.NOT_JSON))
    if state.stops.sandbox_lost:
        return _close(state)
    return _run(state, f'FINAL(__import__("json").loads({as_json!r}))', is_submission=True)


def _json_meant(text: str, *, wants_string: bool) -> str | None:
    """The JSON text that a literal final stands for: JSON as it is, a Python literal, or a bare string."""
    for read in (json.loads, ast.literal_eval):
        try:
            return json.dumps(read(text), allow_nan=False)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return json.dumps(text) if wants_string else None


def _close_unless_ended(state: RunState) -> RunState:
    return state if isinstance(state.phase, Ending) else _close(state)


def _empty(state: RunState, reply: Reply) -> RunState:
    state = replace(state, empty_replies=state.empty_replies + 1, unaccepted=reply.prose or state.unaccepted)
    if state.empty_replies >= state.submitted.limits.empty_replies:
        return ending.partial(state, StopReason.NO_PROGRESS, "the replies held neither code nor a final answer")
    return _close(state if reply.near_misses else _noting(state, notices.REMINDER))


def _close(state: RunState) -> RunState:
    """End the turn: the root LM is told what happened, and the next one begins."""
    return begin(told(state))


def told(state: RunState) -> RunState:
    """With the turn's observation in the conversation."""
    turn = state.turn
    observation = join(turn.observations, compaction.observation_limit(state.submitted)) if turn.observations else ""
    told_now = transcript.observation_message(
        observation,
        state.notes,
        state.submitted.limits,
        state.spent,
        outer_left=state.outer_left,
        turns_left=state.submitted.limits.turns - turn.number,
        seconds_left=state.submitted.deadline_at - state.now,
    )
    return replace(state, messages=(*state.messages, told_now), notes=(), turn=Turn(number=turn.number))


def history_bound(state: RunState, result: CellResult) -> RunState:
    """The older turns are in `history` (or could not be put there, which the root LM will notice by itself)."""
    if result.namespace_lost and not state.stops.any:
        return replace(state, phase=Rebuilding())
    return begin(state)


def sandbox_lost(state: RunState) -> RunState:
    """The sandbox went while something in it was due: the turn ends here."""
    if state.turn.reply is None:
        return begin(state)
    return _close(_noting(state, "The REPL was lost; its variables are gone."))
