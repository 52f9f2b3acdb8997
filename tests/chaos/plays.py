"""Plays: what the root LM and the sub-LM say in each kind of run, and the answer that follows from it.

Every reply follows from the conversation alone, so a call that is made again gets the reply that it would have got. A
play is a list of steps, each one cell that may be run again; the root LM repeats a step until it has seen its mark, and
begins anew when variables are gone. Every prompt bears the tag of its run and the turn that asked, so no two calls of
an undisturbed run are alike; and every reply bears the identity of what was asked, so no two replies are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.loop.values import Message

Kind = Literal["plain", "batch", "recursion", "session", "cell"]
"""`cell` is a direct one: it asks nobody, and prints what the runs of its session have left."""

NOTES = 3
"""Runs of one session."""
_ASKED = re.compile(r"(play|child) (\w+) (\d+) \[\[(\w+)\]\](?: (?:in|#) ?([\w.]+))?")
_DONE = re.compile(r"^DONE (\d+)$", re.MULTILINE)
_ASK = """
def ask(prompt):
    said = llm_query(prompt)
    assert said.ok, said
    return str(said).partition(' <')[0]
"""
_ALL = """
def checked(said):
    assert all(each.ok for each in said), said
    return [str(each).partition(' <')[0] for each in said]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One run, as it is to be played."""

    kind: Kind
    tag: str
    session: str = ""
    """Of a session's run: the name of the session."""
    index: int = 0
    """Of a session's run among those of its session."""

    @property
    def question(self) -> str:
        return f"play {self.kind} {self.index} [[{self.tag}]]" + (f" in {self.session}" if self.session else "")

    @property
    def context(self) -> str:
        return f"the context of {self.tag}"

    @property
    def binds(self) -> tuple[str, ...]:
        """The variables that later runs of its session build on."""
        return (f"note_{self.index}",) if self.kind == "session" else ()

    @property
    def answer(self) -> str:
        """Of an undisturbed run."""
        tag = self.tag
        match self.kind:
            case "plain":
                return repr([f"first of {tag}", f"second of {tag}", len(self.context)])
            case "batch":
                return repr([f"item {n} of {tag}" for n in range(8)])
            case "recursion":
                return repr([_child_answer("one", tag), _child_answer("two", tag), _child_answer("three", tag)])
            case "session":
                return repr([f"note {n} of {self.session}" for n in range(self.index + 1)])
            case "cell":
                return repr([f"note {n} of {self.session}" for n in range(NOTES)])


LOOKS = f"print(repr([{', '.join(f'note_{n}' for n in range(NOTES))}]))"
"""The code of a session's direct cell."""


def _child_answer(name: str, tag: str) -> str:
    return f"inside {name} of {tag} and {name}"


def tag_of(messages: Sequence[Message]) -> str | None:
    """The run that a call was made for."""
    found = re.search(r"\[\[(\w+)\]\]", " ".join(message.content for message in messages if message.role == "user"))
    return None if found is None else found[1]


def is_wrap_up(messages: Sequence[Message]) -> bool:
    """Whether the root LM is asked for its last word."""
    return "This is your last message" in messages[-1].content


def sub_reply(messages: Sequence[Message], identity: str) -> str:
    """What was asked, without the run and the turn that asked; the code of the plays takes the identity off again."""
    return messages[-1].content.partition(" [[")[0] + f" <{identity}>"


def root_reply(messages: Sequence[Message], identity: str) -> str:
    """The code of the step that is due."""
    asked = _ASKED.search(messages[1].content)
    assert asked is not None, "every run of ours asks in one way"
    what, name, index, tag, place = asked.groups()
    turn = sum(message.role == "assistant" for message in messages)
    step, is_anew = _due([message.content for message in messages[2:] if message.role == "user"])
    if what == "child":
        steps = _child_steps(name, tag, f"{place}.{turn}")
    else:
        steps = _steps(name, int(index), tag, turn, session=place, is_anew=is_anew)
    code = steps[min(step, len(steps) - 1)]
    mark = "" if step >= len(steps) - 1 else f"\nprint('DONE {step}')"
    return f"Reply {identity}.\n```repl\n{code.strip()}{mark}\n```"


def _due(observations: Sequence[str]) -> tuple[int, bool]:
    """Which step is next, and whether variables were lost on the way."""
    step, is_anew = 0, False
    for observation in observations:
        if "NameError" in observation:
            step, is_anew = 0, True
        for mark in _DONE.findall(observation):
            step = int(mark) + 1
    return step, is_anew


def _steps(kind: str, index: int, tag: str, turn: int, *, session: str, is_anew: bool) -> tuple[str, ...]:
    mark = f"[[{tag}]] #{turn}"
    match kind:
        case "plain":
            return (
                f"{_ASK}a = ask('first of {tag} {mark}')",
                f"{_ASK}b, c = ask('second of {tag} {mark}'), len(context)",
                "FINAL(repr([a, b, c]))",
            )
        case "batch":
            return (
                f"{_ALL}found = checked(llm_query_batched([f'item {{n}} of {tag} {mark}' for n in range(8)]))",
                "FINAL(repr(found))",
            )
        case "recursion":
            return (
                f"{_ALL}(one,) = checked([rlm_query('child one 0 {mark}', context='and one')])",
                f"{_ALL}two = checked([rlm_query(f'child {{n}} 0 {mark}', context=f'and {{n}}') "
                "for n in ('two', 'three')])",
                "FINAL(repr([one, *two]))",
            )
        case _:
            # Who finds variables gone asks for all of them again; who does not builds on what earlier runs left.
            first = 0 if is_anew else index
            notes = "; ".join(f"note_{n} = ask('note {n} of {session} {mark}')" for n in range(first, index + 1))
            names = ", ".join(f"note_{n}" for n in range(index + 1))
            return (f"{_ASK}{notes}", f"FINAL(repr([{names}]))")


def _child_steps(name: str, tag: str, turns: str) -> tuple[str, ...]:
    return (
        f"{_ASK}said = ask('inside {name} of {tag} [[{tag}]] #{turns}')",
        "FINAL(said + ' ' + context)",
    )
