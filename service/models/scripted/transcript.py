"""What a scripted root LM is shown: question, requests, its own steps so far, and facts that its cells printed.

Everything is read back from the messages at every turn, so the strategies keep no state: a conversation that was
compacted, clipped for a wrap-up or taken over by another replica reads the same. Facts are lines that our own
cells print (`hits: 3`, `best so far: "42"`); values in them are JSON, so that no text from a context begins a line.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from service.loop.values import Message
from service.models.scripted.reader import split

_STEP = re.compile(r"^# step: (\w+)", re.MULTILINE)
_STEPS_DONE = re.compile(r"^Steps done: ([\w, ]+)\.$", re.MULTILINE)
_FACT = re.compile(r"^(characters|hits|verified|unread|best so far|best variable|head): (.*)$", re.MULTILINE)
_QUESTION = re.compile(r"^[ \t]*(?:Question|Query|Task)[ \t]*:[ \t]*\n?", re.MULTILINE)
_QUESTION_END = re.compile(
    r"^(?:Contexts?\b.*:$|No context was given|- `\w+`:|\[left\]|The answer must be JSON)", re.MULTILINE
)
_WRAP_UP = re.compile(r"\blast message\b|\bfinal answer now\b|\bno (?:more )?code can run\b", re.IGNORECASE)
_COMPACTION = re.compile(r"about to be shortened|summari[sz]e (?:your|the) (?:progress|conversation)", re.IGNORECASE)
_TASK = re.compile(r"\btask\b", re.IGNORECASE)
_IN_CONTEXT = re.compile(r"\bin `context`", re.IGNORECASE)
_FAILED = re.compile(r"^\[traceback\]|^The cell (?:was|raised)", re.MULTILINE)
_SCHEMA = re.compile(r"satisf(?:ies|ying) this JSON Schema:\s*")
_REQUEST_CHARS = 3000
"""A closing request stands at the end of the last message; what stands before is data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What there is to go by in a root LM's turn."""

    question: str
    request: Literal["turn", "wrap_up", "compaction"]
    schema: dict[str, Any] | None
    """What the answer must satisfy."""
    steps: tuple[str, ...]
    """The steps taken so far, oldest first."""
    facts: dict[str, str]
    """The newest of each kind."""
    has_failed: bool
    """Whether the last cell raised, was stopped or killed."""
    replies: tuple[str, ...]
    """The root LM's own earlier replies that are still in sight."""
    observation: str
    """The last user message."""
    is_task_in_context: bool
    """Whether the question only points into the context (a child run that was given a prompt alone)."""

    @property
    def last_step(self) -> str | None:
        return self.steps[-1] if self.steps else None

    def number(self, fact: str) -> int:
        """A fact that is a whole number; 0 when it was not printed."""
        text = self.facts.get(fact, "0")
        return int(text) if text.isdecimal() and len(text) < 19 else 0

    def text(self, fact: str) -> str | None:
        """A fact that is a JSON string."""
        try:
            value = json.loads(self.facts[fact])
        except (KeyError, ValueError):
            return None
        return value if isinstance(value, str) else None


def is_root(messages: tuple[Message, ...]) -> bool:
    """Whether these messages put the model in front of a REPL."""
    return any(message.role == "system" and "llm_query" in message.content for message in messages)


def read(messages: tuple[Message, ...]) -> Shown:
    """Read a root LM's messages; tolerant of wording, since prompts are data and change."""
    users = [message.content for message in messages if message.role == "user"]
    replies = tuple(message.content for message in messages if message.role == "assistant")
    first, last = (users[0], users[-1]) if users else ("", "")
    seen = "\n".join(message.content for message in messages if message.role != "system")
    facts = {match.group(1): match.group(2).strip() for match in _FACT.finditer(seen)}
    question, points_into_context = _question(first, facts)
    return Shown(
        question=question,
        request=_request(last),
        schema=_schema(first),
        steps=_steps(replies),
        facts=facts,
        has_failed=len(users) > 1 and _FAILED.search(last) is not None,
        replies=replies,
        observation=last,
        is_task_in_context=points_into_context,
    )


def _request(last: str) -> Literal["turn", "wrap_up", "compaction"]:
    asked = last[-_REQUEST_CHARS:]
    if _COMPACTION.search(asked):
        return "compaction"
    return "wrap_up" if _WRAP_UP.search(asked) else "turn"


def _question(first: str, facts: dict[str, str]) -> tuple[str, bool]:
    start = _QUESTION.search(first)
    asked = first[start.end() :] if start else first
    end = _QUESTION_END.search(asked)
    question = (asked[: end.start()] if end else asked).strip()
    task = _TASK.search(question)
    if task is None or _IN_CONTEXT.search(question, task.end()) is None:
        return question, False
    try:
        head = json.loads(facts.get("head", '""'))
    except ValueError:
        head = ""
    return (split(head).instruction if isinstance(head, str) and head else question), True


def _schema(first: str) -> dict[str, Any] | None:
    start = _SCHEMA.search(first)
    if start is None:
        return None
    try:
        schema, _ = json.JSONDecoder().raw_decode(first, start.end())
    except (ValueError, RecursionError):
        return None
    return schema if isinstance(schema, dict) else None


def _steps(replies: tuple[str, ...]) -> tuple[str, ...]:
    steps: list[str] = []
    for reply in replies:
        if done := _STEPS_DONE.search(reply):
            steps = [name.strip() for name in done.group(1).split(",") if name.strip() != "none"]
        steps += _STEP.findall(reply)
    return tuple(steps)
