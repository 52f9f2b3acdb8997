"""The state machine: a pure function over events, and a pure function to commands.

Theory
------
`evolve(state, event)` folds one event into the state; `decide(state)` names the one command that is due. A driver
holds nothing of its own:

    state = replay(journal)
    while (command = decide(state)) is not None:
        event = perform(command)            # with further events arriving meanwhile
        append(event); state = evolve(state, event)

Rules
-----
1. Exactly one command is due until the event that answers it arrives; after `RunFinished` none is. `decide` depends on
   the state alone, so a driver that crashed gets the command it was performing again.
2. Every other event is a fact on the side: it is accounted for (money, failures of sub-calls, reasons to stop) and
   never changes which command is due. The one exception is `SandboxLost`, which answers whatever needs the sandbox.
3. `evolve` raises for one thing only: a run that does not begin with `RunSubmitted`. An event that answers nothing that
   is due (late, doubled, of another cell) changes at most the sums.
4. Reasons to stop take effect when the due command has been answered. Where waiting for that would be a waste,
   `wants_interrupt` says so: the driver then breaks it off, and the answering event still comes (`CellFinished`, or
   `RootUnavailable` with outcome `cancelled`, or `NamespaceRebuilt`). A command that is due while `wants_interrupt`
   already holds (a recovered run) is answered without being performed.
5. Every answering event brings the run nearer to its end: turns are bounded by `limits.turns`, cells by the blocks of a
   reply, readings and rebuilds by one a cell, compactions by one a turn.

Transitions (`!` any reason to stop; `wrap-up*` is skipped, for `Finish` with the partial answer, when no money was kept
for it, on cancel, after a divergence, or when the deadline has passed)

    due               answered by            then
    ---------------   --------------------   ---------------------------------------------------------------------
    —                 RunSubmitted           AskRoot(turn); with no turns allowed wrap-up*; of a direct cell RunCell
    AskRoot(turn)     CallFinished ok        RunCell of the first block · no block: the final, or a reminder
                      RootUnavailable        ! stop · budget, token_limit: wrap-up* · too_long: AskRoot(compaction),
                                             once a turn · else Finish(suspended or model_failed)
    RunCell           CellFinished           answer ready: ReadVariable · partial changed: ReadVariable ·
                                             namespace lost: RebuildNamespace · next block: RunCell · the final
    ReadVariable      ValueRead              submitted or named: Finish(answered), or a correction and the next turn ·
                                             partial: on where the cell left off · wrap-up: Finish(reason, extracted)
    RebuildNamespace  NamespaceRebuilt       on where the cell left off
    the final         (within evolve)        FINAL_VAR: ReadVariable · FINAL: Finish(answered) · a correction
    the next turn     (within evolve)        ! stop · turn limit: wrap-up* · window filling: AskRoot(compaction) ·
                                             AskRoot(turn)
    AskRoot(compac…)  either                 BindHistory, with or without a summary · ! stop
    BindHistory       CellFinished           namespace lost: RebuildNamespace · AskRoot(turn) · ! stop
    AskRoot(wrap-up)  CallFinished ok        FINAL_VAR: ReadVariable · Finish(reason, extracted)
                      RootUnavailable        Finish(reason, partial)
    Finish            RunFinished            nothing, for ever
    RunCell, ReadVariable, RebuildNamespace, BindHistory
                      SandboxLost            wrap-up*(sandbox_lost)
    RunCell, RebuildNamespace of a direct cell: namespace lost: RebuildNamespace · Finish(cell_done)
    stop              (within evolve)        cancelled, diverged: Finish(partial) · deadline, sandbox lost: wrap-up*
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from service.loop import compaction, ending, notices, transcript, turn
from service.loop.commands import (
    AskRoot,
    BindHistory,
    Command,
    ReadVariable,
    RebuildNamespace,
    RunCell,
)
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
from service.loop.observation import Spent
from service.loop.state import Asking, Binding, Ended, Ending, Reading, Rebuilding, Running, RunState
from service.loop.values import CallOutcome, Message, Purpose, StopReason
from service.money import NanoUSD


def replay(events: Iterable[Event]) -> RunState:
    """The state after these events.

    Raises:
        ValueError: there is no event, or the first is not `RunSubmitted`.
    """
    state: RunState | None = None
    for event in events:
        state = evolve(state, event)
    if state is None:
        raise ValueError("expected the events of a run, found none")
    return state


def evolve(state: RunState | None, event: Event) -> RunState:
    """The state after one more event.

    Raises:
        ValueError: the first event is not `RunSubmitted`.
    """
    if state is None:
        if not isinstance(event, RunSubmitted):
            raise ValueError(f"a run begins with RunSubmitted, found {type(event).__name__}")
        return _submitted(event)
    state = replace(state, now=max(state.now, event.at))
    match event:
        case CallFinished():
            return _call_finished(_with_call(state, event), event)
        case RootUnavailable():
            return _root_unavailable(state, event)
        case CellFinished() | ValueRead() | NamespaceRebuilt():
            return _sandbox_answered(state, event)
        case HostCallAnswered():
            return _with_host_call(state, event)
        case ChildRunFinished():
            return _with_child(state, event)
        case SandboxLost() | DeadlineNeared() | DeadlinePassed() | CancelRequested():
            return _stop_requested(state, event)
        case RunFinished():
            return replace(state, phase=Ended())
        case RunSubmitted() | RunTakenOver() | SandboxAcquired():
            return state
        case unreachable:
            assert_never(unreachable)


def decide(state: RunState) -> Command | None:
    """The command that is due, the same until it is answered; None once the run has finished."""
    match state.phase:
        case Asking():
            return _ask_root(state, state.phase)
        case Running():
            return RunCell(cell_id=state.phase.cell_id, code=state.phase.code)
        case Reading():
            return ReadVariable(variable=state.phase.variable, size_limit_bytes=state.phase.limit_bytes)
        case Rebuilding():
            return RebuildNamespace()
        case Binding():
            return BindHistory(cell_id=state.phase.cell_id, messages=state.offloaded)
        case Ending():
            return state.phase.finish
        case Ended():
            return None
        case unreachable:
            assert_never(unreachable)


def wants_interrupt(state: RunState) -> bool:
    """Whether the due command should be broken off because the run is to stop (rule 4)."""
    match state.phase:
        case Asking(purpose=Purpose.WRAP_UP) | Running(is_submission=True):
            return state.stops.at_once
        case Asking() | Running() | Rebuilding() | Binding():
            return state.stops.any
        case Reading(why="partial"):
            return state.stops.any
        case Reading():
            return state.stops.at_once
        case Ending() | Ended():
            return False
        case unreachable:
            assert_never(unreachable)


def is_finished(state: RunState) -> bool:
    """Whether `RunFinished` has been seen."""
    return isinstance(state.phase, Ended)


def _submitted(event: RunSubmitted) -> RunState:
    messages = transcript.opening(event)
    return turn.begin(
        RunState(submitted=event, phase=Ended(), now=event.at, messages=messages, turns_from=len(messages))
    )


def _ask_root(state: RunState, asking: Asking) -> AskRoot:
    submitted = state.submitted
    messages: tuple[Message, ...]
    if asking.purpose is Purpose.COMPACTION:
        messages, max_output = compaction.request(state), compaction.summary_tokens(submitted)
    elif asking.purpose is Purpose.WRAP_UP and submitted.wrap_up is not None:
        why = ending.WHY.get(asking.reason or StopReason.TURN_LIMIT, "the run ends")
        request = notices.wrap_up_request(why, submitted.answer_schema)
        messages = transcript.bounded(state.messages, request, submitted.wrap_up.input_bytes)
        max_output = submitted.wrap_up.max_output_tokens
    else:
        messages, max_output = state.messages, compaction.output_tokens(submitted, state.messages)
    return AskRoot(purpose=asking.purpose, turn=state.turn.number, messages=messages, max_output_tokens=max_output)


def _with_call(state: RunState, event: CallFinished) -> RunState:
    was_sub_call = event.purpose is Purpose.SUB_CALL and event.outcome is CallOutcome.OK
    spent = Spent(
        nano_usd=NanoUSD(state.spent.nano_usd + event.cost),
        tokens=state.spent.tokens + event.usage.input_tokens + event.usage.output_tokens,
        sub_calls=state.spent.sub_calls + was_sub_call,
    )
    return replace(state, spent=spent)


def _with_child(state: RunState, event: ChildRunFinished) -> RunState:
    spent = Spent(
        nano_usd=NanoUSD(state.spent.nano_usd + event.child.spent),
        tokens=state.spent.tokens + event.child.tokens,
        sub_calls=state.spent.sub_calls + event.child.sub_calls,
    )
    return replace(state, spent=spent)


def _with_host_call(state: RunState, event: HostCallAnswered) -> RunState:
    phase = state.phase
    if not isinstance(phase, Running) or phase.cell_id != event.key.cell_id or event.key.function == "budget":
        return state
    return replace(state, failures=state.failures.with_call(event.items, event.failures))


def _call_finished(state: RunState, event: CallFinished) -> RunState:
    phase = state.phase
    is_reply = event.outcome is CallOutcome.OK and event.origin is None
    if not is_reply or not isinstance(phase, Asking) or phase.purpose is not event.purpose:
        return state
    if phase.purpose is Purpose.WRAP_UP:
        return ending.wrapped_up(state, phase.reason or StopReason.TURN_LIMIT, event.text)
    if phase.purpose is Purpose.COMPACTION:
        return _compact(state, event.text)
    return turn.replied(state, event.text)


def _root_unavailable(state: RunState, event: RootUnavailable) -> RunState:
    phase = state.phase
    if not isinstance(phase, Asking) or phase.purpose is not event.purpose:
        return state
    if phase.purpose is Purpose.WRAP_UP:
        return ending.partial(state, phase.reason or StopReason.TURN_LIMIT, event.message)
    if phase.purpose is Purpose.COMPACTION:
        return _compact(state, "")
    if state.stops.any:
        return ending.stop(state)
    match event.outcome:
        case CallOutcome.BUDGET:
            # Which budget it was (the run's, its session's, key's or tenant's) is known from here only.
            why = replace(state.stops, message=state.stops.message or event.message)
            return ending.wrap_up(replace(state, stops=why), StopReason.BUDGET)
        case CallOutcome.TOKEN_LIMIT:
            return ending.wrap_up(state, StopReason.TOKEN_LIMIT)
        case CallOutcome.SUSPENDED:
            return ending.partial(state, StopReason.SUSPENDED, event.message)
        case CallOutcome.TOO_LONG if compaction.is_possible(state):
            # The turn counts although it brought no reply: a call's id is derived from its turn, and is used once.
            return replace(state, phase=Asking(purpose=Purpose.COMPACTION))
        case _:
            return ending.partial(state, StopReason.MODEL_FAILED, event.message)


def _compact(state: RunState, summary: str) -> RunState:
    if state.stops.any:
        return ending.stop(state)
    return compaction.compact(state, transcript.sendable(summary))


def _sandbox_answered(state: RunState, event: CellFinished | ValueRead | NamespaceRebuilt) -> RunState:
    if isinstance(event, CellFinished):
        state = replace(state, outer_left=event.outer_left)
    if isinstance(event, NamespaceRebuilt) and event.diverged and state.submitted.on_divergence == "stop":
        message = state.stops.message or notices.diverged(event.diverged)
        state = replace(state, stops=replace(state.stops, diverged=True, message=message))
    match state.phase, event:
        case Running() as running, CellFinished(result=result) if running.cell_id == result.cell_id:
            return turn.cell_finished(state, running, result)
        case Binding(cell_id=bound), CellFinished(result=result) if bound == result.cell_id:
            return turn.history_bound(state, result)
        case Reading() as reading, ValueRead() if reading.variable == event.variable:
            return turn.value_read(state, reading, event)
        case Rebuilding(), NamespaceRebuilt():
            return turn.namespace_rebuilt(state, event)
        case _, NamespaceRebuilt() if event.lost_something:
            # The sandbox was replaced between commands, so the root LM must hear of it with the next observation.
            note = notices.namespace_rebuilt(event, state.submitted.run_id)
            return replace(state, notes=(*state.notes, note)[-8:])
        case _:
            return state


def _stop_requested(
    state: RunState, event: SandboxLost | DeadlineNeared | DeadlinePassed | CancelRequested
) -> RunState:
    match event:
        case DeadlineNeared():
            return replace(state, stops=replace(state.stops, deadline_neared=True))
        case DeadlinePassed():
            return replace(state, stops=replace(state.stops, deadline_passed=True))
        case CancelRequested():
            return replace(state, stops=replace(state.stops, cancelled=True))
        case SandboxLost():
            return _sandbox_lost(state, event)
        case unreachable:
            assert_never(unreachable)


def _sandbox_lost(state: RunState, event: SandboxLost) -> RunState:
    message = state.stops.message or event.message
    state = replace(state, stops=replace(state.stops, sandbox_lost=True, message=message))
    phase = state.phase
    if isinstance(phase, Reading) and phase.why == "wrap_up":
        return ending.wrap_up_value_read(state, phase, None)
    if isinstance(phase, Running | Reading | Rebuilding | Binding):
        return turn.sandbox_lost(state)
    return state
