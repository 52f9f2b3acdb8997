"""What a person sees of a run: events in, lines out."""

import dataclasses
import re
import typing
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from service.cli.lines import Line, Style
from service.cli.progress import Progress, advance, status_line
from service.ids import CallId, CellId, RunId, SandboxId, SessionId, cell_id
from service.loop.events import (
    CallFinished,
    CancelRequested,
    CellFinished,
    ChildRunFinished,
    Event,
    HostCallAnswered,
    RootUnavailable,
    RunFinished,
    RunSubmitted,
    SandboxAcquired,
    ValueRead,
)
from service.loop.values import (
    AnswerShown,
    AnswerSource,
    BlobRef,
    CallOutcome,
    CapturedText,
    CellResult,
    CellStatus,
    ChildShown,
    ContextShown,
    HostCallKey,
    Limits,
    Purpose,
    Raised,
    RenderedPrompt,
    StopReason,
    Usage,
)
from service.money import NanoUSD

RUN = RunId("run_" + "0" * 32)
CELL = cell_id(RUN, 1, 0)

SUBMITTED = RunSubmitted(
    at=0.0,
    run_id=RUN,
    session_id=SessionId("ses_" + "0" * 32),
    parent_run_id=None,
    depth=0,
    question="What is the magic number?",
    contexts=(
        ContextShown(variable="context_0", type_name="str", length=27_888_896, unit="characters", preview="blah"),
    ),
    root_model="scripted/root",
    sub_model="scripted/sub",
    root_window_tokens=128_000,
    root_max_output_tokens=8192,
    limits=Limits(cost=NanoUSD(500_000_000)),
    prompt=RenderedPrompt(system="", pack="default@1", sha256="0" * 64),
    wrap_up=None,
    deadline_at=1800.0,
)
ACQUIRED = SandboxAcquired(at=0.1, sandbox_id=SandboxId("sbx_" + "1" * 32), generation=1, isolation="namespaces")


def root_reply(text: str, purpose: Purpose = Purpose.TURN) -> CallFinished:
    return CallFinished(
        at=1.0,
        call_id=CallId("c1"),
        purpose=purpose,
        model="scripted/root",
        outcome=CallOutcome.OK,
        text=text,
        usage=Usage(input_tokens=1_234, output_tokens=56),
        cost=NanoUSD(1_200_000),
    )


def sub_call(outcome: CallOutcome = CallOutcome.OK) -> CallFinished:
    key = HostCallKey(cell_id=CELL, function="llm_query", arguments_sha256="0" * 64, ordinal=0)
    return replace(root_reply("reply", Purpose.SUB_CALL), outcome=outcome, cost=NanoUSD(1_000), origin=key)


def finished(result: CellResult) -> CellFinished:
    return CellFinished(at=2.0, result=result)


def ended(stop_reason: StopReason, source: AnswerSource, message: str = "") -> RunFinished:
    return RunFinished(
        at=9.0,
        stop_reason=stop_reason,
        answer_source=source,
        answer=BlobRef(sha256="0" * 64, size_bytes=7),
        spent=NanoUSD(2_500_000),
        message=message,
    )


def play(*events: Event, show_code: bool = True) -> tuple[Progress, list[Line]]:
    progress, shown = Progress(show_code=show_code), list[Line]()
    for event in events:
        progress, lines = advance(progress, event)
        shown += lines
    return progress, shown


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_a_run_reads_as_a_story() -> None:
    """A whole run: what it may use, each turn with its code, what the code printed, the sub-calls, the end."""
    progress, lines = play(
        SUBMITTED,
        ACQUIRED,
        root_reply("Let me look.\n```repl\nhit = context.find('magic')\nprint(context[hit:hit+30])\n```"),
        sub_call(),
        sub_call(CallOutcome.TIMED_OUT),
        finished(
            CellResult(
                cell_id=CELL,
                status=CellStatus.OK,
                stdout=CapturedText(head="magic number is 4711\n", size_bytes=21),
                answer=AnswerShown(ready=True, type_name="str", size_bytes=7, sha256="0" * 64),
                wall_s=0.25,
            )
        ),
        ValueRead(at=3.0, variable="answer", outcome="read", blob=BlobRef(sha256="0" * 64, size_bytes=7)),
        ended(StopReason.ANSWERED, AnswerSource.SUBMITTED),
    )
    assert texts(lines) == [
        f"run {RUN}",
        "root LM scripted/root · sub-calls scripted/sub",
        "at most 30 turns, 1800 s, $0.50",
        "context_0: str, 27,888,896 characters",
        f"sandbox {ACQUIRED.sandbox_id} · isolation namespaces",
        "turn 1 · 1,234 tokens in, 56 out, $0.0012",
        "Let me look.",
        "│ hit = context.find('magic')",
        "│ print(context[hit:hit+30])",
        "2 sub-calls (1 failed) · $0.001202 of $0.50",
        "cell 1.1 ok · 0.2 s · printed 21 bytes · answer submitted (7 bytes)",
        "  magic number is 4711",
        "read answer: 7 bytes",
        "answered · answer of 7 bytes",
        "1 turn, 1 cell, 2 sub-calls (1 failed) · $0.0025 of $0.50",
    ]
    assert status_line(progress) == "finished · turn 1 · 2 sub-calls (1 failed) · $0.0025 of $0.50"


def test_code_can_be_left_out() -> None:
    """With --no-show-code neither code nor what it printed appears."""
    cell = CellResult(cell_id=CELL, status=CellStatus.OK, stdout=CapturedText(head="secret", size_bytes=6))
    _, lines = play(SUBMITTED, root_reply("plan\n```repl\nprint('secret')\n```"), finished(cell), show_code=False)
    assert not [text for text in texts(lines) if "secret" in text]
    assert {line.style for line in lines}.isdisjoint({Style.CODE, Style.OUTPUT})


def test_a_cell_that_raised_says_what_and_is_a_warning() -> None:
    """The exception's type and message stand on the cell's line."""
    raised = Raised(type_name="KeyError", message="'x'", traceback="…")
    _, lines = play(finished(CellResult(cell_id=CELL, status=CellStatus.RAISED, raised=raised, wall_s=1.0)))
    assert lines == [Line("cell 1.1 raised · KeyError: 'x' · 1.0 s", Style.WARNING)]


def test_long_code_and_output_are_cut_with_the_count() -> None:
    """A model that writes 1000 lines fills the screen once, not ten times."""
    code = "\n".join(f"x{number} = {number}" for number in range(1000))
    _, lines = play(root_reply(f"```repl\n{code}\n```"))
    assert len(lines) < 70
    assert lines[-1].text == "│ … 940 more lines"


def test_many_sub_calls_show_life_where_nothing_is_updated_in_place() -> None:
    """Plain output gets a line per hundred sub-calls, and the rest when the cell ends."""
    _, lines = play(*[sub_call()] * 250, finished(CellResult(cell_id=CELL, status=CellStatus.OK)))
    assert [line.text.split(" · ")[0] for line in lines if line.style is Style.PULSE] == [
        "100 sub-calls",
        "200 sub-calls",
        "250 sub-calls",
    ]


def test_child_runs_count_their_money_in() -> None:
    """What children spent is part of what the person sees spent."""
    child = ChildShown(
        run_id=RunId("run_" + "2" * 32),
        stop_reason=StopReason.ANSWERED,
        spent=NanoUSD(7_000_000),
        tokens=10,
        sub_calls=3,
    )
    key = HostCallKey(cell_id=CELL, function="rlm_query", arguments_sha256="0" * 64, ordinal=0)
    progress, _ = play(SUBMITTED, sub_call(), ChildRunFinished(at=1.0, key=key, child=child))
    assert progress.spent == 7_001_000
    assert progress.child_runs == 1


def test_a_stopped_run_says_where_its_answer_comes_from() -> None:
    """An extracted answer is never shown as if it had been submitted."""
    _, lines = play(ended(StopReason.BUDGET, AnswerSource.EXTRACTED, "no money for another turn"))
    assert texts(lines)[:2] == [
        "stopped: what is left of the budget does not cover another call · answer (extracted) of 7 bytes",
        "no money for another turn",
    ]
    assert lines[0].style is Style.WARNING


def test_sub_calls_that_a_limit_forbade_are_seen() -> None:
    """What was refused has no call of its own, so it is counted from the host call: by limit, and not as failed."""
    key = HostCallKey(cell_id=CELL, function="llm_query_batched", arguments_sha256="0" * 64, ordinal=0)
    answered = HostCallAnswered(
        at=1.0, key=key, answer_json="[]", failures=("timed_out", "budget", "budget", "call_limit"), items=5
    )
    cell = finished(CellResult(cell_id=CELL, status=CellStatus.OK))
    progress, lines = play(SUBMITTED, sub_call(), sub_call(CallOutcome.TIMED_OUT), answered, cell)
    told = "2 sub-calls (1 failed), 3 refused (2 budget, 1 call limit)"
    assert told in status_line(progress)
    assert told in lines[-2].text
    _, lines = play(SUBMITTED, replace(answered, failures=("budget",)), cell)
    assert lines[-2].text.startswith("0 sub-calls, 1 refused (budget) · ")


def test_nothing_is_called_an_answer_of_no_bytes() -> None:
    """A run that ends without an answer says so, and a cancelled one says nothing else."""
    _, lines = play(
        CancelRequested(at=1.0),
        replace(root_reply("cancelled while it ran"), outcome=CallOutcome.CANCELLED),
        RootUnavailable(at=1.0, purpose=Purpose.TURN, outcome=CallOutcome.CANCELLED, message="being stopped"),
        replace(ended(StopReason.CANCELLED, AnswerSource.PARTIAL), answer=None),
    )
    assert lines[0] == Line("cancelled · no answer", Style.WARNING)


def test_a_turn_without_code_says_so_where_code_is_not_shown() -> None:
    """With --no-show-code a turn is more than its bill."""
    _, lines = play(SUBMITTED, root_reply("Let me think."), show_code=False)
    assert lines[-1].text == "no code in the reply"


def test_an_exception_without_a_message_is_its_type() -> None:
    """No colon stands there with nothing behind it."""
    raised = Raised(type_name="KeyboardInterrupt", message="", traceback="…")
    _, lines = play(finished(CellResult(cell_id=CELL, status=CellStatus.RAISED, raised=raised, wall_s=1.0)))
    assert lines[0].text == "cell 1.1 raised · KeyboardInterrupt · 1.0 s"


hostile = st.text(st.characters(), max_size=80)


def of_any(event_type: type[Event]) -> st.SearchStrategy[Event]:
    """Events whose every text is hostile; ids are ours."""
    hints = typing.get_type_hints(event_type)
    filled = {
        field.name: hints[field.name] for field in dataclasses.fields(event_type) if field.name != "answer_schema"
    }
    return st.builds(
        event_type, **{name: hostile if hint is str else st.from_type(hint) for name, hint in filled.items()}
    )


for our_id in (RunId, SessionId, SandboxId, CallId, CellId):
    st.register_type_strategy(our_id, st.from_regex(r"\Arun_[0-9a-f]{4}(\.t[0-9]\.b[0-9])?\Z"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of([of_any(event) for event in typing.get_args(Event)]), max_size=6))
def test_any_events_give_safe_lines(events: list[Event]) -> None:
    """Whatever events come, in whatever order, with whatever text: lines and status are one printable line each."""
    progress, lines = play(*events)
    for text in [*texts(lines), status_line(progress)]:
        assert text.isprintable(), re.sub(r"[^ -~]", "?", text)
