"""The code that scripted root LMs write: shared openings of cells, and the two cells that every strategy needs.

A cell prints what the next turn decides by, as fact lines (see `transcript`), and leaves values in variables.
"""

from service.models.scripted.transcript import Shown

TEXTS = """\
import json, re
from itertools import islice

def as_text(value):
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\\n".join(map(as_text, value))
    return json.dumps(value, ensure_ascii=False, indent=1)

names = [name for name in (f"context_{n}" for n in range(100)) if name in globals()] or ["context"]
texts = [as_text(globals()[name]) for name in names]
"""
"""Every context as text. The first cell binds it; the interpreter keeps it."""

AFTER_TASK = """\
texts = [as_text(globals()[name]) for name in names]
texts = [text.partition("Text:\\n")[2] or text for text in texts]  # the task itself is not material
"""

TALLY = """\
def is_usable(reply):
    return getattr(reply, "ok", True) and str(reply).strip() and "NOT FOUND" not in str(reply)

good = [str(reply).strip() for reply in replies if is_usable(reply)]
best = max(good, key=good.count) if good else globals().get("best")
"""
"""From `replies` to the answer most of them agree on."""

SHOW_BEST = """\
if best is not None:
    answer["content"] = best  # kept, in case the run is cut off
    print("best so far:", json.dumps(str(best)[:2000]))
"""

_PEEK = """\
for name, text in zip(names, texts):
    value = globals()[name]
    print(name, type(value).__name__, len(value) if hasattr(value, "__len__") else value)
print("characters:", sum(map(len, texts)))
print("head:", json.dumps(texts[0][:1500]))
"""


def literal(value: object) -> str:
    """A Python literal in which no backtick can end a fence."""
    return repr(value).replace("`", "\\x60")


def turn(prose: str, step: str, code: str) -> str:
    """A reply with one cell."""
    return f"{prose}\n\n```repl\n# step: {step}\n{code.rstrip()}\n```"


def materials(shown: Shown) -> str:
    """Code that binds `question`, and `texts` anew where the context begins with the task."""
    return (AFTER_TASK if shown.is_task_in_context else "") + f"question = {literal(shown.question)}\n"


def peek() -> str:
    """The first look: what the contexts are, how large, how they begin."""
    return turn("First I look at what I have, without reading all of it.", "peek", TEXTS + _PEEK)


def submit(shown: Shown) -> str:
    """Declare `best` to be the answer."""
    if shown.schema is None:
        code = 'answer["content"] = "NOT FOUND" if globals().get("best") is None else best\nanswer["ready"] = True'
        return turn("This settles it, so I submit.", "submit", code)
    code = (
        f"question = {literal(' '.join(shown.question.split()))}\n"
        "prompt = f'Question: {question}\\n\\nText:\\n{question} {best}'\n"
        f"value = llm_query(prompt, schema={literal(shown.schema)})\n"
        "print(value)\n"
        'if getattr(value, "ok", True):\n'
        '    answer["content"] = value\n'
        '    answer["ready"] = True\n'
    )
    return turn("I put what I found into the form that is asked for, and submit.", "submit", code)
