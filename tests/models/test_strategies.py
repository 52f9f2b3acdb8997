"""Scripted root LMs in rehearsal: the real loop, a plain interpreter, and contexts whose answer no script can know."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.loop.values import AnswerSource, Limits, Message, Purpose, StopReason
from service.models.scripted.play import play
from service.models.scripted.script import Strategy
from service.models.scripted.strategies.mistakes import MISTAKES
from tests.models.rehearsal import SYSTEM, rehearse

QUESTION = "I'm looking for a magic number. What is it?"
WORDS = ("blah", "random", "text", "data", "content", "information", "sample", "magic", "number", "value", "river")


def haystack(number: int, lines: int = 3000, seed: int = 1) -> str:
    """Lines of random words, `magic` and `number` among them, and one line that says it."""
    source = random.Random(seed)
    rows = [" ".join(source.choices(WORDS, k=source.randint(3, 8))) for _ in range(lines)]
    rows.insert(source.randrange(lines), f"The magic number is {number}")
    return "\n".join(rows)


def test_the_demonstration_takes_four_turns() -> None:
    """Peek, search, verify by sub-calls, submit: that is all it takes, and the answer is the hidden one."""
    shown = rehearse(Strategy.ROOT, QUESTION, haystack(1298418))
    assert shown.steps == ["peek", "grep", "verify", "submit"]
    assert shown.answer == "1298418"
    assert len(shown.sub_prompts) >= 3
    assert shown.finish is not None
    assert shown.finish.answer_source is AnswerSource.SUBMITTED


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=0, max_value=10**9), st.integers(min_value=0, max_value=1000))
@pytest.mark.parametrize("strategy", [Strategy.ROOT, Strategy.GREP, Strategy.MAP, Strategy.RECURSION])
def test_the_answer_is_found_not_known(strategy: Strategy, number: int, seed: int) -> None:
    """For any number hidden anywhere, the strategy returns that number."""
    shown = rehearse(strategy, QUESTION, haystack(number, lines=1200, seed=seed))
    assert shown.answer == str(number)


def test_the_context_never_enters_the_messages() -> None:
    """With the same beginning, the root is shown as much of a small context as of a large one."""
    text = haystack(7)
    small, large = rehearse(Strategy.GREP, QUESTION, text), rehearse(Strategy.GREP, QUESTION, text + "\nblah" * 400_000)
    assert sum(map(len, large.observations)) < 1.1 * sum(map(len, small.observations))


@pytest.mark.parametrize(
    "context",
    [
        ["first line", "The magic number is 31337", "last line"] * 1,
        {"a": {"note": "The magic number is 31337"}, "b": [1, 2, 3]},
        "The magic number is 31337",
        ["filler"] * 5000 + ["The magic number is 31337"] + ["filler"] * 5000,
    ],
)
def test_contexts_of_every_type(context: object) -> None:
    """Strings, lists and dicts are searched alike."""
    assert rehearse(Strategy.ROOT, QUESTION, context).answer == "31337"


def test_nothing_to_find_is_said() -> None:
    """Where the context does not hold the answer, the run ends by saying so."""
    shown = rehearse(Strategy.ROOT, "What is the zebra code?", "\n".join(["plain words alone"] * 3000))
    assert shown.answer == "NOT FOUND"
    assert shown.steps[-1] == "submit"


def test_counting_sums_over_the_parts() -> None:
    """A question of how many is mapped over parts and summed."""
    text = haystack(5, lines=9000)
    shown = rehearse(Strategy.ROOT, "How many lines mention river?", text)
    assert shown.answer == str(sum("river" in line for line in text.splitlines()))
    assert len(shown.sub_prompts) > 1


def test_summaries_are_mapped_and_reduced() -> None:
    """Each part is summarised by a sub-call, and their summaries by one more."""
    shown = rehearse(Strategy.ROOT, "Summarise the text.", haystack(5, lines=6000))
    assert shown.steps == ["peek", "summarise", "reduce", "submit"]
    assert shown.answer


def test_long_answers_are_built_in_a_variable() -> None:
    """A transformed context of any size is returned through FINAL_VAR, and no model writes it."""
    text = haystack(5, lines=20_000)
    shown = rehearse(Strategy.ROOT, "Return the text in upper case.", text)
    assert shown.answer == text.upper()
    assert all(len(reply) < 5000 for reply in shown.root_replies)
    assert not shown.sub_prompts


def test_an_answer_as_large_as_asked() -> None:
    """A size in the question is the size of the answer."""
    shown = rehearse(Strategy.LONG_OUTPUT, "Repeat the text until you have 10 MB.", "one\ntwo\n")
    assert len(shown.answer) == 10_000_000


def test_recursion_goes_down_to_its_limit() -> None:
    """Parts go to child runs, theirs to further ones, until the depth limit turns them into sub-calls."""
    text = haystack(77, lines=1500)
    shallow = rehearse(Strategy.RECURSION, QUESTION, text, limits=Limits(depth=1))
    deep = rehearse(Strategy.RECURSION, QUESTION, text, limits=Limits(depth=2))
    assert shallow.answer == deep.answer == "77"
    assert shallow.children == 3
    assert deep.children == 3 + 9


def test_parts_that_no_window_holds_are_searched() -> None:
    """Where the depth ends at parts too large to read, the run searches instead of giving up."""
    shown = rehearse(Strategy.RECURSION, QUESTION, haystack(55, lines=60_000), limits=Limits(depth=0))
    assert shown.steps == ["peek", "recurse", "grep", "verify", "submit"]
    assert shown.answer == "55"


def test_greed_ends_with_the_limit() -> None:
    """The greedy root asks for more every turn, and says what it has when it must."""
    shown = rehearse(Strategy.GREEDY, QUESTION, haystack(4711, lines=300), limits=Limits(turns=4))
    assert len(shown.sub_prompts) == 3 * 64
    assert shown.finish is not None
    assert shown.finish.stop_reason is StopReason.TURN_LIMIT
    assert shown.finish.answer_source is AnswerSource.EXTRACTED
    assert shown.answer == "4711"


def test_every_mistake_is_made_heard_and_survived() -> None:
    """One mistake a turn, the loop's remark quoted in the next reply, and the answer in the end."""
    shown = rehearse(Strategy.MISTAKES, QUESTION, haystack(8675309))
    made = shown.root_replies[: len(MISTAKES)]
    assert len(made) == len(MISTAKES)
    for mistake, reply in zip(MISTAKES, made, strict=True):
        assert mistake.reply in reply
        assert not mistake.reply or f"(mistake: {mistake.name})" in reply
    assert any("I was told: You answered before any code" in reply for reply in made)
    assert shown.steps == ["peek", "grep", "verify", "submit"]
    assert shown.answer == "8675309"


def test_a_wrap_up_is_answered_with_the_best_so_far() -> None:
    """Cut off after the search, the root returns what the search found."""
    shown = rehearse(Strategy.GREP, QUESTION, haystack(99), limits=Limits(turns=2))
    assert shown.purposes[-1] is Purpose.WRAP_UP
    assert shown.answer == "The magic number is 99"


def test_a_compacted_conversation_goes_on() -> None:
    """A summary keeps the steps and the facts, so that nothing is done twice."""
    limits = Limits(turns=40)
    shown = rehearse(Strategy.MISTAKES, QUESTION, haystack(321), limits=limits, window_tokens=4000)
    assert Purpose.COMPACTION in shown.purposes
    assert shown.steps == ["peek", "grep", "verify", "submit"]
    assert shown.answer == "321"


def test_no_money_for_sub_calls_still_gives_an_answer() -> None:
    """Where every sub-call is refused, the best hit of the search is submitted as it is."""
    shown = rehearse(Strategy.GREP, QUESTION, haystack(12, lines=150_000), sub_calls_allowed=0)
    assert shown.answer == "The magic number is 12"


def test_a_schema_shapes_the_answer() -> None:
    """Where JSON is asked for, what was found is put into that form."""
    schema = {"type": "object", "properties": {"magic_number": {"type": "integer"}}, "required": ["magic_number"]}
    shown = rehearse(Strategy.ROOT, QUESTION, haystack(2024), schema=schema)
    assert shown.answer == {"magic_number": 2024}


def test_lost_variables_are_bound_again() -> None:
    """A NameError in a later cell sends the root back to its first look."""
    turns = (
        Message(role="system", content=SYSTEM),
        Message(role="user", content=f"Question:\n{QUESTION}\n\n[left] 9 turns."),
        Message(role="assistant", content="```repl\n# step: peek\n```"),
        Message(role="user", content="characters: 5000000"),
        Message(role="assistant", content="```repl\n# step: grep\n```"),
        Message(role="user", content="[traceback]\nNameError: name 'texts' is not defined"),
    )
    assert "# step: peek" in play(Strategy.GREP, turns, None)


def test_without_a_repl_a_root_script_is_a_reader() -> None:
    """The same name serves for root and sub-calls: what it is shown decides."""
    messages = (Message(role="user", content="Question: What is the code?\n\nText:\nThe code is 5"),)
    assert {play(strategy, messages, None) for strategy in Strategy} == {"5"}


@given(st.text(max_size=300), st.lists(st.text(max_size=200), max_size=4), st.sampled_from(list(Strategy)))
def test_any_conversation_gets_a_reply(question: str, said: list[str], strategy: Strategy) -> None:
    """Whatever stands in the messages, a script replies, and to the same messages in the same way."""
    messages = [Message(role="system", content=SYSTEM), Message(role="user", content=question)]
    for number, text in enumerate(said):
        messages.append(Message(role="user" if number % 2 else "assistant", content=text))
    assert play(strategy, tuple(messages), None) == play(strategy, tuple(messages), None)
