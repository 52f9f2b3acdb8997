"""How runs end: limits, the clock, cancel, and what fails."""

from collections.abc import Callable

import pytest

from service.ids import CellId
from service.loop.commands import ANSWER, Finish, ReadVariable
from service.loop.events import CancelRequested, DeadlineNeared, DeadlinePassed, Event, RunFinished, SandboxLost
from service.loop.machine import decide, replay, wants_interrupt
from service.loop.values import AnswerSource, CallOutcome, CellStatus, Limits, Purpose, StopReason
from tests.loop.playbook import BLOB, Playbook, answer_shown, submitted

NEARED = DeadlineNeared(at=50.0)
PASSED = DeadlinePassed(at=60.0)
CANCEL = CancelRequested(at=40.0)
LOST = SandboxLost(at=30.0, message="the machine went away")


def test_the_last_turn_is_followed_by_a_wrap_up() -> None:
    """At the turn limit the root LM is asked once more, and its text is the extracted answer."""
    play = Playbook(limits=Limits(turns=1)).code().cell()
    assert play.asked.purpose is Purpose.WRAP_UP
    assert play.asked.max_output_tokens == 300
    assert play.reply("About 42, not verified.").finish == Finish(
        stop_reason=StopReason.TURN_LIMIT,
        answer_source=AnswerSource.EXTRACTED,
        answer_text="About 42, not verified.",
    )


def test_a_last_turn_that_submits_is_not_lost_to_the_turn_limit() -> None:
    """The answer is looked at before any limit, in text as in code."""
    assert Playbook(limits=Limits(turns=1)).code().cell(answer=answer_shown("a", ready=True)).read().finish.answer
    play = Playbook(limits=Limits(turns=1)).code(after="FINAL(42)").cell()
    assert play.finish.answer_source is AnswerSource.SUBMITTED


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(CallOutcome.BUDGET, StopReason.BUDGET), (CallOutcome.TOKEN_LIMIT, StopReason.TOKEN_LIMIT)],
)
def test_a_limit_of_the_ledger_leads_to_the_wrap_up(outcome: CallOutcome, reason: StopReason) -> None:
    """A root call that no reservation can be made for is followed by the one that was reserved at submit."""
    play = Playbook().unavailable(outcome)
    assert play.asked.purpose is Purpose.WRAP_UP
    assert play.reply("FINAL(so far 3)").finish.answer_text == "so far 3"
    assert play.finish.stop_reason is reason


def test_without_reserved_money_a_limit_ends_the_run_with_the_partial_answer() -> None:
    """The wrap-up is skipped when it was never paid for."""
    play = Playbook(wrap_up=None).code().cell(answer=answer_shown("so far")).read().unavailable(CallOutcome.BUDGET)
    assert play.finish == Finish(
        stop_reason=StopReason.BUDGET, answer_source=AnswerSource.PARTIAL, answer=BLOB, message="no"
    )


def test_a_wrap_up_may_name_a_variable() -> None:
    """FINAL_VAR in the wrap-up returns the variable's value; when it cannot be read, the rest of the text."""
    play = Playbook().unavailable(CallOutcome.BUDGET).reply("All I have:\nFINAL_VAR(table)")
    assert play.due == ReadVariable(variable="table", size_limit_bytes=1 << 30)
    read = Playbook()
    read.events = [*play.events]
    assert read.read().finish.answer_source is AnswerSource.EXTRACTED
    assert play.read("missing").finish.answer_text == "All I have:"


def test_a_wrap_up_that_cannot_be_had_ends_with_the_partial_answer() -> None:
    """The wrap-up is asked for once."""
    play = Playbook().unavailable(CallOutcome.BUDGET).unavailable(CallOutcome.TIMED_OUT)
    assert (play.finish.stop_reason, play.finish.answer_source) == (StopReason.BUDGET, AnswerSource.PARTIAL)


def test_an_empty_wrap_up_is_a_partial_answer() -> None:
    """A reply that says nothing extracts nothing."""
    play = Playbook().unavailable(CallOutcome.BUDGET).reply("  ")
    assert play.finish.answer_source is AnswerSource.PARTIAL


def test_a_wrap_up_that_is_one_fence_yields_its_inside() -> None:
    """Under a schema the fenced JSON is the answer."""
    play = Playbook(answer_schema={"type": "object"}).unavailable(CallOutcome.BUDGET)
    assert '{"type": "object"}' in play.told
    assert play.reply('Here:\n```json\n{"a": 1}\n```').finish.answer_text == '{"a": 1}'


def test_a_model_that_fails_ends_the_run_with_its_message() -> None:
    """Other outcomes of the root call are not limits: no wrap-up is tried."""
    play = Playbook().unavailable(CallOutcome.REFUSED, "the key was rejected")
    assert (play.finish.stop_reason, play.finish.message) == (StopReason.MODEL_FAILED, "the key was rejected")


@pytest.mark.parametrize("event", [NEARED, PASSED, CANCEL])
def test_a_reason_to_stop_interrupts_the_cell_and_waits_for_it(event: Event) -> None:
    """The due command stays due; the driver is told to break it off."""
    play = Playbook().code()
    due = play.due
    assert not wants_interrupt(play.state)
    assert play.then(event).due == due
    assert wants_interrupt(play.state)


def test_a_cell_that_submitted_while_the_deadline_neared_still_answers() -> None:
    """A turn that submits is never lost to the clock, nor to a cancel."""
    for event in (NEARED, PASSED, CANCEL):
        play = Playbook().code().then(event).cell(CellStatus.RAISED, answer=answer_shown("42", ready=True))
        assert play.read().finish.stop_reason is StopReason.ANSWERED


def test_a_neared_deadline_leads_to_the_wrap_up_with_the_interrupted_output() -> None:
    """What the interrupted cell printed is in the wrap-up's messages."""
    play = Playbook().code().then(NEARED).cell(CellStatus.TIMED_OUT, stdout="half of it")
    assert play.asked.purpose is Purpose.WRAP_UP
    assert "half of it" in play.told
    assert not wants_interrupt(play.state)
    assert play.reply("half").finish.stop_reason is StopReason.DEADLINE


def test_a_passed_deadline_breaks_off_the_wrap_up() -> None:
    """When the deadline passes during the wrap-up, the call is broken off and the partial answer returned."""
    play = Playbook().code().cell().then(NEARED).unavailable(CallOutcome.CANCELLED).then(PASSED)
    assert play.asked.purpose is Purpose.WRAP_UP
    assert wants_interrupt(play.state)
    finish = play.unavailable(CallOutcome.CANCELLED).finish
    assert (finish.stop_reason, finish.answer_source) == (StopReason.DEADLINE, AnswerSource.PARTIAL)


def test_a_passed_deadline_allows_no_wrap_up() -> None:
    """Past the deadline the run ends with what it has."""
    play = Playbook().code().then(PASSED).cell(answer=answer_shown("half"))
    assert play.due == ReadVariable(variable=ANSWER, size_limit_bytes=1 << 20)
    assert play.read().finish == Finish(
        stop_reason=StopReason.DEADLINE, answer_source=AnswerSource.PARTIAL, answer=BLOB
    )


def test_a_cancelled_run_gets_no_wrap_up() -> None:
    """Cancel ends the run with the partial answer, whatever else is near."""
    play = Playbook().then(NEARED).then(CANCEL).unavailable(CallOutcome.CANCELLED)
    assert (play.finish.stop_reason, play.finish.answer_source) == (StopReason.CANCELLED, AnswerSource.PARTIAL)


def test_a_reply_that_arrives_while_stopping_runs_no_code_but_may_answer() -> None:
    """Code of a reply that came too late is not run; a final in it counts."""
    assert Playbook().then(NEARED).code().asked.purpose is Purpose.WRAP_UP
    assert Playbook().then(NEARED).reply("FINAL(9)").finish.stop_reason is StopReason.ANSWERED


DIVERGED = CellId("run_x.t1.b0")


def lose_nothing(play: Playbook) -> Playbook:
    return play


def lose_while_reading(play: Playbook) -> Playbook:
    return play.cell(answer=answer_shown("x", ready=True))


def lose_while_rebuilding(play: Playbook) -> Playbook:
    return play.cell(CellStatus.KILLED, namespace_lost=True)


@pytest.mark.parametrize("bring_about", [lose_nothing, lose_while_reading, lose_while_rebuilding])
def test_a_lost_sandbox_answers_whatever_needs_it(bring_about: Callable[[Playbook], Playbook]) -> None:
    """The run wraps up from its conversation, and nothing more is asked of the sandbox."""
    play = bring_about(Playbook().code()).then(LOST)
    assert play.asked.purpose is Purpose.WRAP_UP
    finish = play.reply("FINAL_VAR(x)").finish
    assert (finish.stop_reason, finish.answer_source) == (StopReason.SANDBOX_LOST, AnswerSource.PARTIAL)


def test_a_divergence_is_told_or_ends_the_run_as_it_was_asked_for() -> None:
    """With `tell` the root LM hears what is lost and goes on; with `stop` the run ends with what it has, names the
    cells and makes no further call."""
    told = Playbook().code().cell(CellStatus.KILLED, namespace_lost=True).rebuilt("x", diverged=(DIVERGED,))
    assert told.asked.purpose is Purpose.TURN
    assert "x" in told.asked.messages[-1].content
    stopped = Playbook(on_divergence="stop").code().cell(CellStatus.KILLED, namespace_lost=True)
    finish = stopped.rebuilt("x", diverged=(DIVERGED,)).finish
    assert (finish.stop_reason, finish.answer_source) == (StopReason.DIVERGED, AnswerSource.PARTIAL)
    assert DIVERGED in finish.message
    kept = Playbook(on_divergence="stop").code().cell(CellStatus.KILLED, namespace_lost=True).rebuilt("x")
    assert kept.asked.purpose is Purpose.TURN


def test_a_divergence_found_beside_the_due_command_breaks_it_off() -> None:
    """Where the namespace is rebuilt while something else is due (after a take-over), that is interrupted, and no value
    that a diverged namespace holds becomes the answer."""
    asking = Playbook(on_divergence="stop").rebuilt("x", diverged=(DIVERGED,))
    assert wants_interrupt(asking.state)
    assert asking.unavailable(CallOutcome.CANCELLED).finish.stop_reason is StopReason.DIVERGED
    reading = Playbook(on_divergence="stop").code().cell(answer=answer_shown("x", ready=True))
    reading.rebuilt("x", diverged=(DIVERGED,))
    assert wants_interrupt(reading.state)
    assert reading.read("failed").finish.stop_reason is StopReason.DIVERGED


def test_the_best_partial_answer_is_the_saved_one() -> None:
    """A saved `answer` goes before text that was not accepted."""
    play = Playbook(wrap_up=None).code(after="FINAL(plan)").cell()
    assert play.then(CANCEL).unavailable(CallOutcome.CANCELLED).finish.answer_text == "plan"
    play = Playbook(wrap_up=None).code(after="FINAL(plan)").cell(answer=answer_shown("kept")).read()
    assert play.then(CANCEL).unavailable(CallOutcome.CANCELLED).finish.answer == BLOB


def test_a_run_that_was_ended_from_outside_wants_nothing() -> None:
    """`RunFinished` ends a run wherever it stands."""
    play = Playbook().code()
    play.then(
        RunFinished(
            at=9.0,
            stop_reason=StopReason.STORE_FAILED,
            answer_source=AnswerSource.PARTIAL,
            answer=None,
            spent=play.state.spent.nano_usd,
        )
    )
    assert play.due is None


def test_a_journal_that_does_not_begin_with_the_submission_is_refused() -> None:
    """The only thing `evolve` raises for is a run without a beginning."""
    with pytest.raises(ValueError, match="begins with RunSubmitted, found CancelRequested"):
        replay([CANCEL])
    with pytest.raises(ValueError, match="found none"):
        replay([])
    assert decide(replay([submitted()])) is not None


def test_a_run_that_never_got_to_ask_has_nothing_to_wrap_up() -> None:
    """When the time is up before the first reply, no money is spent on asking what there is."""
    play = Playbook().then(NEARED).unavailable(CallOutcome.CANCELLED)
    assert isinstance(play.due, Finish)
    assert (play.due.stop_reason, play.due.answer_source) == (StopReason.DEADLINE, AnswerSource.PARTIAL)
