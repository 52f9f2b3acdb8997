"""When the conversation outgrows the root LM's window."""

from service.ids import CellId
from service.loop import notices
from service.loop.commands import BindHistory
from service.loop.compaction import estimated_tokens
from service.loop.events import CancelRequested
from service.loop.values import CallOutcome, CellStatus, Limits, Purpose, StopReason
from tests.loop.playbook import RUN, Playbook


def filled(**changes: object) -> Playbook:
    """A run whose conversation has just outgrown a small window."""
    play = Playbook(root_window_tokens=8_000, root_max_output_tokens=1_000, limits=Limits(turns=200), **changes)
    while play.asked.purpose is Purpose.TURN:
        play.code().cell(stdout="a line of output\n" * 60)
    return play


def test_older_turns_move_to_history_and_a_summary_takes_their_place() -> None:
    """System and first message stay, then summary, note and the newest turn; the rest is bound in full."""
    play = filled()
    before = play.messages
    assert notices.COMPACTION_REQUEST in before[-1].content
    play.reply("Found 3 whales so far.")
    assert play.due == BindHistory(cell_id=CellId(f"{RUN}.h1"), messages=before[2:-2])
    play.cell()
    assert play.asked.purpose is Purpose.TURN
    assert play.messages[:2] == before[:2]
    assert [each.role for each in play.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert play.messages[2].content == "Found 3 whales so far."
    assert notices.HISTORY_MOVED in play.messages[3].content
    assert play.messages[4] == before[-2]


def test_a_second_compaction_binds_all_earlier_turns_under_another_id() -> None:
    """`history` always holds everything that was moved."""
    play = filled()
    first = play.reply("one").due
    assert isinstance(first, BindHistory)
    play.cell()
    while play.asked.purpose is Purpose.TURN:
        play.code().cell(stdout="another line\n" * 60)
    second = play.reply("two").due
    assert isinstance(second, BindHistory)
    assert second.cell_id == f"{RUN}.h2"
    assert second.messages[: len(first.messages)] == first.messages
    assert not any(notices.HISTORY_MOVED in each.content for each in second.messages)


def test_without_a_summary_the_turns_move_all_the_same() -> None:
    """A compaction call that cannot be had does not stop the run."""
    play = filled().unavailable(CallOutcome.TIMED_OUT).cell()
    assert play.asked.purpose is Purpose.TURN
    assert notices.NO_SUMMARY in play.messages[2].content


def test_a_prompt_that_the_provider_finds_too_long_is_compacted_and_asked_again() -> None:
    """Estimates may err: `too_long` compacts once before it fails the run."""
    play = Playbook().code().cell().code().cell().unavailable(CallOutcome.TOO_LONG)
    assert play.asked.purpose is Purpose.COMPACTION
    assert play.reply("summary").cell().asked.turn == 4
    assert play.unavailable(CallOutcome.TOO_LONG).finish.stop_reason is StopReason.MODEL_FAILED


def test_a_namespace_lost_while_binding_is_rebuilt() -> None:
    """The loop's own cell can lose the kernel like any other."""
    play = filled().reply("s").cell(CellStatus.KILLED, namespace_lost=True).rebuilt()
    assert play.asked.purpose is Purpose.TURN


def test_a_cancelled_compaction_ends_the_run() -> None:
    """Reasons to stop count during compaction, too."""
    play = filled().then(CancelRequested(at=9.0)).unavailable(CallOutcome.CANCELLED)
    assert play.finish.stop_reason is StopReason.CANCELLED


def test_a_long_run_in_a_small_window_never_outgrows_it() -> None:
    """Prompt and room for the reply stay within the window for hundreds of turns of flooding output."""
    play = Playbook(root_window_tokens=8_000, root_max_output_tokens=1_000, limits=Limits(turns=60))
    while play.asked.purpose is not Purpose.WRAP_UP:
        asked = play.asked
        assert estimated_tokens(asked.messages) + asked.max_output_tokens <= 8_000
        if asked.purpose is Purpose.TURN:
            play.code().cell(stdout="flood " * 20_000)
        else:
            play.reply("summary " * 300).cell()
