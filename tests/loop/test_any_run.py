"""Properties of every run, whatever the model, the sandbox and the clock do."""

from random import Random
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from service.ids import CallId, CellId, RunId, SandboxId
from service.loop.commands import ANSWER, AskRoot, BindHistory, Command, Finish, ReadVariable, RebuildNamespace, RunCell
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
    SandboxAcquired,
    SandboxLost,
    ValueRead,
)
from service.loop.machine import decide, evolve, is_finished, replay, wants_interrupt
from service.loop.transcript import size_bytes
from service.loop.values import (
    AnswerShown,
    BlobRef,
    CallOutcome,
    CapturedText,
    CellResult,
    CellStatus,
    ChildShown,
    HostCallKey,
    Limits,
    Purpose,
    StopReason,
    Usage,
    WrapUp,
)
from service.money import NanoUSD
from tests.loop.playbook import folded, submitted

BLOB = BlobRef(sha256="b" * 64, size_bytes=5)
PIECES = (
    *("```repl\nprint(context)\n```\n", "```python\nanswer['ready'] = True\n```\n", "```js\n1\n```\n"),
    *("FINAL(42)\n", "FINAL(plan)\n", "FINAL_VAR(x)\n", "FINAL_VAR(answer)\n", 'FINAL({"a": 1})\n', "FINAL(\n"),
    *("I think.\n", "", "\ud800 lone\n", "x" * 3_000 + "\n"),
    *["```repl\nx = context[:9]\n```\n"] * 12,
)


def some_run(rng: Random) -> RunSubmitted:
    limits = Limits(
        turns=rng.randrange(13),
        empty_replies=rng.randint(1, 3),
        answer_bytes=rng.choice([3, 1 << 30]),
        observation_chars=rng.choice([50, 20_000]),
        first_turn_final_is_questioned=rng.random() < 0.5,
    )
    return submitted(
        limits=limits,
        wrap_up=rng.choice([None, WrapUp(input_bytes=rng.randint(200, 5_000), max_output_tokens=100)]),
        answer_schema=rng.choice([None, {"type": "object"}, {"type": "string"}]),
        root_window_tokens=rng.choice([600, 4_000, 200_000]),
        root_max_output_tokens=rng.choice([100, 4_000]),
        on_divergence=rng.choice(["tell", "stop"]),
    )


def some_answer(rng: Random, command: Command, at: float) -> Event:
    """Any event that answers the command."""
    match command:
        case AskRoot():
            outcome = CallOutcome.OK if rng.random() < 0.93 else rng.choice(list(CallOutcome))
            if outcome is not CallOutcome.OK:
                return RootUnavailable(at=at, purpose=command.purpose, outcome=outcome, message="no \ud800")
            return _call(
                at, command.purpose, outcome, "".join(rng.choices(PIECES, k=rng.randint(0, 3))), some_cost(rng)
            )
        case RunCell() | BindHistory():
            return CellFinished(at=at, result=some_result(rng, command.cell_id))
        case ReadVariable():
            read = rng.choice(READ_OUTCOMES)
            blob = BLOB if read == "read" else None
            return ValueRead(at=at, variable=command.variable, outcome=read, blob=blob)
        case RebuildNamespace():
            diverged = rng.choice([(), (CellId("c"),)])
            return NamespaceRebuilt(at=at, cells=1, missing=rng.choice([(), ("x",)]), diverged=diverged)
        case Finish():
            return RunFinished(
                at=at,
                stop_reason=command.stop_reason,
                answer_source=command.answer_source,
                answer=command.answer,
                spent=NanoUSD(0),
            )


READ_OUTCOMES: tuple[Literal["read", "missing", "too_large", "failed"], ...] = (
    "read",
    "missing",
    "too_large",
    "failed",
)


def some_result(rng: Random, cell: CellId) -> CellResult:
    answer = AnswerShown(
        ready=rng.random() < 0.2,
        type_name="str",
        size_bytes=rng.choice([0, 5, 2 << 20]),
        sha256=rng.choice(["a", "b", "c"]),
    )
    return CellResult(
        cell_id=cell,
        status=rng.choice([CellStatus.OK] * 5 + list(CellStatus)),
        stdout=CapturedText(head="so it goes\ud800" * rng.choice([0, 1, 300]), size_bytes=9),
        answer=answer if rng.random() < 0.5 else None,
        namespace_lost=rng.random() < 0.1,
    )


def some_cost(rng: Random) -> NanoUSD:
    return NanoUSD(rng.randrange(1_000))


def _call(at: float, purpose: Purpose, outcome: CallOutcome, text: str, cost: NanoUSD) -> CallFinished:
    return CallFinished(
        at=at,
        call_id=CallId(f"c{at}"),
        purpose=purpose,
        model="m",
        outcome=outcome,
        text=text,
        usage=Usage(input_tokens=7),
        cost=cost,
    )


def something_on_the_side(rng: Random, at: float, *, stops: bool) -> Event:
    """Any event that answers nothing that can be due."""
    key = HostCallKey(
        cell_id=CellId(rng.choice([f"{submitted().run_id}.t1.b0", "other"])),
        function="llm_query",
        arguments_sha256="0",
        ordinal=0,
    )
    cost = some_cost(rng)
    child = ChildShown(run_id=RunId("r"), stop_reason=StopReason.ANSWERED, spent=cost, tokens=1, sub_calls=1)
    events: list[Event] = [
        _call(at, rng.choice(list(Purpose)), CallOutcome.TIMED_OUT, "slow", cost),
        _call(at, Purpose.SUB_CALL, CallOutcome.OK, "yes", cost),
        HostCallAnswered(at=at, key=key, answer_json="{}", failures=("refused",), items=2),
        ChildRunFinished(at=at, key=key, child=child),
        SandboxAcquired(at=at, sandbox_id=SandboxId("sbx"), generation=1, isolation="landlock"),
        CellFinished(at=at, result=CellResult(cell_id=CellId("other"), status=CellStatus.OK)),
        ValueRead(at=at, variable="never asked for", outcome="read", blob=BLOB),
        submitted(at=at),
    ]
    if stops and rng.random() < 0.2:
        events = [DeadlineNeared(at=at), DeadlinePassed(at=at), CancelRequested(at=at)]
    return rng.choice(events)


def _bound_on_commands(limits: Limits) -> int:
    """A turn has at most three blocks and the loop's own, each run, read and rebuilt, and may be compacted before."""
    return (limits.turns + 1) * (1 + 4 * 3 + 1 + 4) + 6


@given(st.integers(0, 2**64))
@settings(max_examples=400, deadline=None)
def test_every_run_ends_in_bounded_steps(seed: int) -> None:
    """Whatever answers come and whatever happens on the side, a run ends, keeps its sums and stays within bounds;
    a fact on the side never changes what is due; and folding its events again gives the same state."""
    rng = Random(seed)
    events: list[Event] = [some_run(rng)]
    state = evolve(None, events[0])
    performed: list[Command] = []
    cost = 0
    may_stop = rng.random() < 0.3
    while (command := decide(state)) is not None:
        _check(command, state.submitted.wrap_up)
        performed.append(command)
        assert len(performed) <= _bound_on_commands(state.submitted.limits)
        for _ in range(rng.randint(0, 2)):
            event = something_on_the_side(rng, float(len(events)), stops=may_stop)
            state = evolve(state, event)
            events.append(event)
            cost += _cost(event)
            assert decide(state) == command
        needs_sandbox = isinstance(command, RunCell | ReadVariable | BindHistory | RebuildNamespace)
        assert not (needs_sandbox and state.stops.sandbox_lost)
        if needs_sandbox and may_stop and rng.random() < 0.05:
            event = SandboxLost(at=1.0, message="gone")
        else:
            event = some_answer(rng, command, float(len(events)))
        state = evolve(state, event)
        events.append(event)
        cost += _cost(event)
    assert is_finished(state)
    assert not wants_interrupt(state)
    assert isinstance(performed[-1], Finish)
    assert state.spent.nano_usd == cost
    assert replay(events) == folded(events) == state
    cells = [command.cell_id for command in performed if isinstance(command, RunCell | BindHistory)]
    assert len(cells) == len(set(cells))
    asked = [(command.purpose, command.turn) for command in performed if isinstance(command, AskRoot)]
    assert len(asked) == len(set(asked))


def _cost(event: Event) -> int:
    if isinstance(event, CallFinished):
        return event.cost
    return event.child.spent if isinstance(event, ChildRunFinished) else 0


def _check(command: Command, wrap_up: WrapUp | None) -> None:
    if isinstance(command, AskRoot):
        assert command.max_output_tokens >= 1
        assert all(message.content.encode() is not None for message in command.messages)
        if command.purpose is Purpose.WRAP_UP:
            assert wrap_up is not None
            assert size_bytes(command.messages) <= wrap_up.input_bytes
            assert command.max_output_tokens == wrap_up.max_output_tokens
        else:
            roles = [message.role for message in command.messages]
            assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)][: len(roles)]
            assert roles[-1] == "user"
    if isinstance(command, Finish):
        assert command.answer is None or command.answer_text is None
        (command.answer_text or "").encode()
    if isinstance(command, ReadVariable):
        assert command.variable in {ANSWER, "x"}


@given(st.integers(0, 2**64))
@settings(max_examples=100, deadline=None)
def test_a_crash_between_any_two_events_changes_nothing(seed: int) -> None:
    """A driver that forgets everything after each event and replays performs the same commands."""
    rng = Random(seed)
    events: list[Event] = [some_run(rng)]
    state = evolve(None, events[0])
    while (command := decide(state)) is not None:
        assert decide(replay(events)) == command
        events.append(some_answer(rng, command, float(len(events))))
        state = evolve(state, events[-1])
