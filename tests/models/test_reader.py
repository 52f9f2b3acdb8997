"""The scripted sub-LM and its structured replies: they depend on the text they are given, and on nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from service.loop.values import Message
from service.models.scripted import reader, structured
from service.models.scripted.keywords import read_wish
from service.models.scripted.play import play
from service.models.scripted.script import Strategy

REPORT = """The river rose in spring.
Alice paid 250 dollars for the boat.
Bob paid 1,299.50 dollars for the engine.
The river fell in autumn.
Nobody saw the captain."""


@pytest.mark.parametrize(
    ("instruction", "reply"),
    [
        ("How much did Bob pay for the engine? Give the amount.", "1,299.50"),
        ("How much did Alice pay for the boat? Give the amount.", "250"),
        ("What happened to the captain?", "Nobody saw the captain."),
        ("How many lines mention the river?", "2"),
        ("Count the lines about dollars.", "2"),
        ("Does the text mention the engine?", "yes"),
        ("Is there a mention of pirates?", "no"),
        ("Classify the text as one of: money, weather, river.", "river"),
        ("What is the password of the lighthouse?", "NOT FOUND"),
        ("What is the number of the locker?", "0"),
    ],
)
def test_questions_are_answered_from_the_text(instruction: str, reply: str) -> None:
    """Lines, numbers, counts, labels, yes and no come from the text; what it does not say is not found."""
    assert reader.answer(f"Question: {instruction}\n\nText:\n{REPORT}") == reply


@given(st.integers(min_value=0, max_value=10**9))
def test_another_text_gets_another_reply(number: int) -> None:
    """The reply is a function of the text, so the script cannot know an answer beforehand."""
    assert reader.answer(f"Question: What is the magic number?\n\nText:\nThe magic number is {number}.") == str(number)


@pytest.mark.parametrize(
    "prompt",
    [
        "Question: What is the magic number?\n\nText:\nthe magic number is 7",
        "Question: What is the magic number?\nContext: the magic number is 7",
        "What is the magic number?\n\nthe magic number is 7",
        "What is the magic number?\nthe magic number is 7",
        "Here is a document.\nText:\nthe magic number is 7\n",
        "the magic number is 7\n\nQuestion: What is the magic number?",
    ],
)
def test_prompts_come_in_many_forms(prompt: str) -> None:
    """Instruction and text are told apart by markers, paragraphs or lines."""
    assert "7" in reader.answer(prompt)


def test_a_summary_says_how_it_begins_and_what_it_is_about() -> None:
    """Summaries have bounded length and come from the text."""
    text = reader.answer(f"Question: Summarise this in one sentence.\n\nText:\n{REPORT * 100}")
    assert text.startswith("The river rose in spring.")
    assert len(text) < 300


@given(st.text(max_size=400))
def test_any_prompt_gets_a_reply(prompt: str) -> None:
    """Whatever is asked, the reader replies, deterministically."""
    assert reader.answer(prompt) == reader.answer(prompt)


@given(st.text(max_size=300))
def test_wishes_are_bounded(question: str) -> None:
    """However long a question, few words are searched for."""
    wish = read_wish(question)
    assert len(wish.words) <= 12
    assert len(wish.pairs) <= 12


def test_words_that_tell_nothing_are_left_out() -> None:
    """What is searched for are the question's own words, and those that stand together."""
    wish = read_wish("I'm looking for a magic number. What is it?")
    assert wish.words == ("magic", "number")
    assert wish.pairs == (("magic", "number"),)
    assert wish.number
    assert not wish.count


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number", "minimum": 3, "maximum": 4},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["money", "river", 3]},
        {"const": {"a": 1}},
        {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 3},
        {"type": "string", "minLength": 200, "maxLength": 210},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {
            "type": "object",
            "properties": {
                "amount": {"type": "number"},
                "people": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1},
                "kind": {"enum": ["river", "money"]},
            },
            "required": ["amount", "people", "kind"],
            "additionalProperties": False,
            "$defs": {
                "person": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "paid": {"type": ["integer", "null"]}},
                    "required": ["name", "paid"],
                }
            },
        },
        {"type": "object"},
    ],
)
def test_structured_replies_satisfy_their_schema(schema: dict[str, Any]) -> None:
    """The kinds of schema that sub-calls ask for are filled validly."""
    value = json.loads(structured.fill(schema, "How much did Bob pay for the engine?", REPORT))
    assert Draft202012Validator(schema).is_valid(value), value


def test_a_schema_that_refers_to_itself_ends() -> None:
    """Recursive schemas are cut at a depth."""
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert json.loads(structured.fill(schema, "x", "y"))["next"]
    assert json.loads(structured.fill(loop, "x", "y")) is not None


def test_structured_values_come_from_the_text() -> None:
    """A number asked for by a property's name is the one beside that name."""
    schema = {"type": "object", "properties": {"magic_number": {"type": "integer"}}}
    assert json.loads(structured.fill(schema, "Extract.", "Lines\nThe magic number is 1298418\n")) == {
        "magic_number": 1298418
    }


LONG = 300_000
"""Characters that no quadratic pattern gets through while anybody waits."""


@pytest.mark.parametrize(
    "piece", ["\n", " ", "label ", "one of\n", "task ", "number every ", "Question\n", "1,", "a\n\n", "Steps done: a, "]
)
def test_no_prompt_is_read_in_more_than_linear_time(piece: str) -> None:
    """However a long prompt repeats itself, the reader and every strategy come to its end."""
    prompt = f"Classify, number every {piece * (LONG // len(piece))}"
    assert isinstance(reader.answer(prompt), str)
    told = Message(role="user", content=prompt)
    shown = (Message(role="system", content="llm_query"), told, Message(role="assistant", content=prompt), told)
    for strategy in Strategy:
        assert isinstance(play(strategy, shown, None), str)


def test_a_schema_that_refers_to_itself_is_filled_so_far() -> None:
    """A schema that unfolds without end gets a reply of bounded size."""
    itself = {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefghij"}}
    assert len(structured.fill(itself, "Who paid?", REPORT)) < 100_000
    nested = {"type": "array", "minItems": 20, "items": {"$ref": "#"}}
    assert len(structured.fill(nested, "Who paid?", REPORT)) < 100_000
