"""What a reply, its cells and its final come to."""

import pytest

from service.ids import RunId, cell_id
from service.loop import notices
from service.loop.commands import ANSWER, Finish, ReadVariable, RebuildNamespace, RunCell
from service.loop.machine import is_finished
from service.loop.turn import MAX_CORRECTIONS, PARTIAL_LIMIT_BYTES
from service.loop.values import AnswerSource, CellStatus, Limits, Purpose, StopReason
from tests.loop.playbook import BLOB, RUN, Playbook, answer_shown

SUBMITTED = Finish(stop_reason=StopReason.ANSWERED, answer_source=AnswerSource.SUBMITTED, answer=BLOB)


def test_a_run_begins_by_asking_for_turn_one() -> None:
    """The first due command asks the root LM for its first turn."""
    asked = Playbook().asked
    assert (asked.purpose, asked.turn) == (Purpose.TURN, 1)
    assert [message.role for message in asked.messages] == ["system", "user"]


def test_blocks_run_in_order_under_derived_ids() -> None:
    """Each block of a reply is one cell, in order, with an id derived from its place."""
    play = Playbook().reply("```repl\na = 1\n```\nand\n```Python\nb = 2\n```")
    assert play.due == RunCell(cell_id=cell_id(RUN, 1, 0), code="a = 1")
    assert play.cell().due == RunCell(cell_id=cell_id(RUN, 1, 1), code="b = 2")
    assert play.cell().asked.turn == 2


def test_the_due_command_stays_due_until_it_is_answered() -> None:
    """A replayed state names the same outstanding command again."""
    play = Playbook().code()
    assert play.due == play.due == RunCell(cell_id=cell_id(RUN, 1, 0), code="print(context[:9])")


@pytest.mark.parametrize("status", [CellStatus.RAISED, CellStatus.TIMED_OUT, CellStatus.KILLED])
def test_a_turn_stops_at_the_first_cell_that_does_not_end_well(status: CellStatus) -> None:
    """Later blocks of the reply are not run, and the root LM is told so."""
    play = Playbook().reply("```repl\na\n```\n```repl\nb\n```").cell(status)
    assert play.asked.turn == 2
    assert notices.BLOCKS_SKIPPED in play.told


def test_a_submitted_answer_is_read_and_ends_the_run() -> None:
    """`answer` that is ready is read under the limit of the run, and later blocks do not run."""
    play = Playbook(limits=Limits(answer_bytes=77)).reply("```repl\na\n```\n```repl\nb\n```")
    play.cell(answer=answer_shown("42", ready=True))
    assert play.due == ReadVariable(variable=ANSWER, size_limit_bytes=77)
    assert play.read().due == SUBMITTED
    assert play.finished().due is None
    assert is_finished(play.state)


def test_a_changed_partial_answer_is_saved_once() -> None:
    """Content of `answer` that is new and not too large is read after the cell; unchanged content is not."""
    play = Playbook().code().cell(answer=answer_shown("so far"))
    assert play.due == ReadVariable(variable=ANSWER, size_limit_bytes=PARTIAL_LIMIT_BYTES)
    assert play.read().asked.turn == 2
    assert play.code().cell(answer=answer_shown("so far")).asked.turn == 3


def test_a_partial_answer_over_the_limit_is_not_saved() -> None:
    """Only partial answers up to a megabyte are read after every cell."""
    assert Playbook().code().cell(answer=answer_shown("x" * (PARTIAL_LIMIT_BYTES + 1))).asked.turn == 2


def test_final_var_is_looked_at_after_the_cells() -> None:
    """FINAL_VAR beside code that ended well reads the variable, which ends the run."""
    play = Playbook().code("x = context[:3]", after="FINAL_VAR(x)").cell(variables=("x",))
    assert play.due == ReadVariable(variable="x", size_limit_bytes=1 << 30)
    assert play.read().due == SUBMITTED


def test_final_var_of_a_missing_name_is_a_one_line_correction() -> None:
    """A name that does not exist costs one turn and one line."""
    play = Playbook().code(after="FINAL_VAR(nothing)").cell().read("missing")
    assert play.asked.turn == 2
    assert notices.missing_variable("nothing") in play.told.splitlines()


@pytest.mark.parametrize("final", ["FINAL(42)", "FINAL_VAR(x)"])
def test_a_final_beside_a_failed_cell_is_corrected(final: str) -> None:
    """No final is taken from a reply whose code raised."""
    play = Playbook().code(after=final).cell(CellStatus.RAISED)
    assert notices.FINAL_BESIDE_FAILED_CELL in play.told


def test_a_literal_final_beside_code_gets_one_more_turn() -> None:
    """A text that was written before the output was seen is not taken, until it is repeated."""
    play = Playbook().code(after="FINAL(42)").cell()
    assert notices.FINAL_BESIDE_CODE in play.told
    assert play.reply("FINAL(42)").finish.answer_text == "42"


def test_the_same_literal_beside_code_twice_is_insisting() -> None:
    """A model that always writes code and the same final gets its way."""
    play = Playbook().code(after="FINAL(42)").cell().code(after="FINAL(42)").cell()
    assert play.finish.answer_text == "42"


def test_a_first_turn_final_is_questioned_once() -> None:
    """Before any cell has touched the context, a final is questioned; whoever insists gets its way."""
    play = Playbook().reply("FINAL(7)")
    assert notices.FIRST_TURN_FINAL in play.told
    assert play.reply("FINAL(7)").finish == Finish(
        stop_reason=StopReason.ANSWERED, answer_source=AnswerSource.SUBMITTED, answer_text="7"
    )


def test_a_cell_that_ignores_the_context_does_not_count_as_looking() -> None:
    """FINAL_VAR on turn 1 after code that never names a context is questioned as well."""
    play = Playbook().code("x = 6 * 7", after="FINAL_VAR(x)").cell()
    assert notices.FIRST_TURN_FINAL in play.told


@pytest.mark.parametrize(
    "changes", [{"limits": Limits(first_turn_final_is_questioned=False)}, {"contexts": ()}, {"limits": Limits(turns=1)}]
)
def test_a_first_turn_final_is_taken_where_questioning_makes_no_sense(changes: dict[str, object]) -> None:
    """Switched off, without contexts, or on the only turn, a final is taken at once."""
    assert Playbook(**changes).reply("FINAL(7)").finish.answer_text == "7"


def test_a_reply_with_neither_is_reminded_and_then_ends_the_run() -> None:
    """After `empty_replies` in a row the run ends with what it has, here the newest prose."""
    play = Playbook(limits=Limits(empty_replies=2)).reply("Let me think.")
    assert notices.REMINDER in play.told
    assert play.reply("It is 42.").finish == Finish(
        stop_reason=StopReason.NO_PROGRESS,
        answer_source=AnswerSource.PARTIAL,
        answer_text="It is 42.",
        message="the replies held neither code nor a final answer",
    )


def test_only_replies_in_a_row_count_as_no_progress() -> None:
    """Code between two empty replies starts the count again."""
    play = Playbook(limits=Limits(empty_replies=2)).reply("hm").code().cell().reply("hm")
    assert play.asked.turn == 4


def test_a_near_miss_is_told_instead_of_the_reminder() -> None:
    """A reply whose fence has another label hears which labels run."""
    play = Playbook().reply("```js\n1\n```")
    assert "only fences labelled ```repl or ```python run" in play.told
    assert notices.REMINDER not in play.told


def test_a_lost_namespace_is_rebuilt_and_the_root_hears_what_is_missing() -> None:
    """After a killed kernel the namespace is rebuilt before the next turn."""
    play = Playbook().code().cell(CellStatus.KILLED, namespace_lost=True, detail="out of memory")
    assert play.due == RebuildNamespace()
    play.rebuilt("table", "index")
    assert "out of memory" in play.told
    assert "table, index" in play.told


def test_a_namespace_rebuilt_unasked_is_told_with_the_next_observation() -> None:
    """A sandbox replaced between commands does not change what is due, but what is lost is told."""
    play = Playbook().code()
    due = play.due
    assert play.rebuilt("table").due == due
    assert "table" in play.cell().told


def test_a_divergence_is_told_also_where_no_variable_is_missing() -> None:
    """The root LM must not take values for those that it has seen: it hears which turns did not end as before, by
    whatever way the namespace came back."""
    play = Playbook().code().cell().code().cell(CellStatus.KILLED, namespace_lost=True)
    run = play.state.submitted.run_id
    play.rebuilt(diverged=(cell_id(run, 1, 0), cell_id(RunId("run_earlier"), 7, 0)))
    assert "2 of them did not end as before (of turn 1)" in play.told
    assert "brought back" not in play.told
    play.code().rebuilt(diverged=(cell_id(run, 2, 0),))
    assert "1 of them did not end as before (of turn 2)" in play.cell().told


def test_an_answer_that_is_too_large_is_corrected_once() -> None:
    """The second answer over the limit ends the run with the partial one."""
    play = Playbook().code().cell(answer=answer_shown("big", ready=True)).read("too_large")
    assert "larger than" in play.told
    play.code().cell(answer=answer_shown("also big", ready=True)).read("too_large")
    assert play.finish.stop_reason is StopReason.ANSWER_TOO_LARGE
    assert play.finish.answer_source is AnswerSource.PARTIAL


def test_a_literal_answer_that_is_too_large_is_corrected_once() -> None:
    """The limit of answer bytes holds for text finals as well."""
    play = Playbook(limits=Limits(answer_bytes=3, first_turn_final_is_questioned=False)).reply("FINAL(long)")
    assert play.asked.turn == 2
    assert play.reply("FINAL(longer)").finish.stop_reason is StopReason.ANSWER_TOO_LARGE


def test_a_rejected_answer_that_is_left_as_it_is_does_not_count_as_submitted_again() -> None:
    """`answer` stays ready after a rejection; only a cell that writes it again submits it again."""
    play = Playbook().code("answer['ready'] = True").cell(answer=answer_shown("big", ready=True)).read("too_large")
    play.code("print(1)").cell(answer=answer_shown("big", ready=True))
    assert notices.ANSWER_UNCHANGED in play.told
    play.code("answer['ready'] = True").cell(answer=answer_shown("big", ready=True))
    assert play.due == ReadVariable(variable=ANSWER, size_limit_bytes=1 << 30)


def test_unusable_answers_are_corrected_a_bounded_number_of_times() -> None:
    """A value that breaks the schema goes back with the reason, then ends the run."""
    play = Playbook(answer_schema={"type": "object"})
    for number in range(MAX_CORRECTIONS):
        play.code().cell(answer=answer_shown(str(number), ready=True)).read("failed", "`total` is missing")
        assert "`total` is missing" in play.told
    play.code().cell(answer=answer_shown("last", ready=True)).read("failed", "`total` is missing")
    assert play.finish.stop_reason is StopReason.NO_PROGRESS
    assert "`total` is missing" in play.finish.message


def test_a_literal_final_under_a_schema_is_submitted_by_a_cell() -> None:
    """Where JSON is asked for, a literal goes through the REPL, so that it is validated like any other answer."""
    play = Playbook(answer_schema={"type": "object"}).code().cell().reply("FINAL({'total': 'it''s'})")
    code = play.running.code
    submitted: list[object] = []
    eval(code, {"FINAL": submitted.append})
    assert submitted == [{"total": "its"}]
    assert play.cell(answer=answer_shown("x", ready=True)).read().due == SUBMITTED


def test_a_literal_final_that_is_not_json_is_corrected() -> None:
    """A sentence is not taken where a schema asks for an object."""
    play = Playbook(answer_schema={"type": "object"}).code().cell().reply("FINAL(about 42)")
    assert notices.NOT_JSON in play.told


def test_a_bare_string_satisfies_a_string_schema() -> None:
    """Where the schema asks for a string, a bare literal is one."""
    play = Playbook(answer_schema={"type": "string"}).code().cell().reply("FINAL(about 42)")
    submitted: list[object] = []
    eval(play.running.code, {"FINAL": submitted.append})
    assert submitted == ["about 42"]


def test_history_is_append_only() -> None:
    """What was sent once is sent again unchanged, with more at its end."""
    play = Playbook().code().cell(stdout="one")
    earlier = play.messages
    later = play.code().cell(stdout="two").messages
    assert later[: len(earlier)] == earlier
    assert [message.role for message in later] == ["system", *["user", "assistant"] * 2, "user"]
