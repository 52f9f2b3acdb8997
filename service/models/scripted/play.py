"""Who speaks: the sub-LM's reader or a strategy of the root LM. Closing requests are answered here, for all alike."""

from collections.abc import Callable
from typing import Any, assert_never

from service.loop.values import Message
from service.models.scripted import cells, reader, structured, transcript
from service.models.scripted.script import Strategy
from service.models.scripted.strategies import (
    greedy,
    grep,
    long_output,
    mapping,
    mistakes,
    peek,
    recursion,
    root,
    summarise,
)
from service.models.scripted.transcript import Shown

FAILED_STEPS = 3
"""After so many failures of one step in a row, what there is gets submitted."""

_NEXT_REPLY: dict[Strategy, Callable[[Shown], str]] = {
    Strategy.ROOT: root.next_reply,
    Strategy.PEEK: peek.next_reply,
    Strategy.GREP: grep.next_reply,
    Strategy.MAP: mapping.next_reply,
    Strategy.SUMMARISE: summarise.next_reply,
    Strategy.LONG_OUTPUT: long_output.next_reply,
    Strategy.RECURSION: recursion.next_reply,
    Strategy.GREEDY: greedy.next_reply,
    Strategy.MISTAKES: mistakes.next_reply,
}
"""Every strategy but `SUB`, which is never a root."""

_KEPT_FACTS = ("characters", "head", "hits", "verified", "unread", "best so far", "best variable")


def play(strategy: Strategy, messages: tuple[Message, ...], schema: dict[str, Any] | None) -> str:
    """The reply to these messages; a pure function of them."""
    if strategy is Strategy.SUB or not transcript.is_root(messages):
        return _sub_reply(messages, schema)
    shown = transcript.read(messages)
    match shown.request:
        case "compaction":
            return _summary(shown)
        case "wrap_up":
            return _last_words(shown)
        case "turn":
            return _turn(strategy, shown)
        case _ as never:
            assert_never(never)


def _sub_reply(messages: tuple[Message, ...], schema: dict[str, Any] | None) -> str:
    prompt = next((message.content for message in messages if message.role == "user"), "")
    if schema is None:
        return reader.answer(prompt)
    asked = reader.split(prompt)
    return structured.fill(schema, asked.instruction, asked.text)


def _turn(strategy: Strategy, shown: Shown) -> str:
    if strategy is not Strategy.MISTAKES and _is_stuck(shown):
        return cells.submit(shown) if shown.last_step != "submit" else _last_words(shown)
    if shown.has_failed and "NameError" in shown.observation and shown.steps:
        return cells.peek()  # the interpreter lost its variables: bind them again and go on from there
    return _NEXT_REPLY[strategy](shown)


def _is_stuck(shown: Shown) -> bool:
    """Whether the last steps were the same one over and over, and it failed or submitting was not accepted."""
    repeated = shown.steps[-FAILED_STEPS:] == (shown.last_step,) * FAILED_STEPS
    return repeated and (shown.has_failed or shown.last_step == "submit")


def _summary(shown: Shown) -> str:
    """What a compaction asks for: the question, the steps and the facts, in lines that `transcript` reads back."""
    steps = ", ".join(shown.steps) or "none"
    facts = [f"{name}: {shown.facts[name]}" for name in _KEPT_FACTS if name in shown.facts]
    return "\n".join([f"I was asked: {' '.join(shown.question.split())[:500]}", f"Steps done: {steps}.", *facts])


def _last_words(shown: Shown) -> str:
    """The best answer that has been seen, for when no turn is left."""
    best = shown.text("best so far")
    if shown.schema is not None:
        return structured.fill(shown.schema, shown.question, f"{' '.join(shown.question.split())} {best or ''}")
    if "best variable" in shown.facts:
        return f"FINAL_VAR({shown.facts['best variable'].split()[0]})"
    if best is not None:
        return best
    return f"I have found no answer. Steps taken: {', '.join(shown.steps) or 'none'}."
