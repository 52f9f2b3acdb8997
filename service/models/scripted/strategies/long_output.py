"""Builds the answer in a variable, as large as is asked for, and returns the variable: no model ever writes it."""

import re

from service.models.scripted import cells
from service.models.scripted.transcript import Shown

_TRANSFORMS = (
    (r"\bupper[- ]?case|\bcapital letters|\bcapitali[sz]e", '"\\n".join(texts).upper()'),
    (r"\blower[- ]?case", '"\\n".join(texts).lower()'),
    (r"\breverse", '"\\n".join(reversed("\\n".join(texts).splitlines()))'),
    (r"\bsort", '"\\n".join(sorted("\\n".join(texts).splitlines()))'),
    (r"\bunique|\bduplicates", '"\\n".join(dict.fromkeys("\\n".join(texts).splitlines()))'),
    (
        r"\bnumber (?:the|all|every|each)\b.{0,80}\blines?\b",
        '"\\n".join(f"{n}: {line}" for n, line in enumerate("\\n".join(texts).splitlines(), start=1))',
    ),
    (r"\brepeat|\bverbatim|\breturn (?:the )?(?:whole|entire|all)\b|\bcopy of\b", '"\\n".join(texts)'),
)
_UNITS = {"kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30, "characters": 1, "bytes": 1}
_SIZE = re.compile(r"\b(\d{1,12})[ _]?(kB|KiB|MB|MiB|GB|GiB|characters|bytes)\b", re.IGNORECASE)
LARGEST = 2**30


def is_asked_for(question: str) -> bool:
    """Whether the question wants the context itself, transformed, rather than something out of it."""
    return any(re.search(pattern, question, re.IGNORECASE | re.DOTALL) for pattern, _ in _TRANSFORMS)


def next_reply(shown: Shown) -> str:
    match shown.last_step:
        case None:
            return cells.peek()
        case "peek" if shown.has_failed:
            return cells.peek()
        case "build" if not shown.has_failed:
            return "FINAL_VAR(result)"
        case _:
            code = f"{cells.materials(shown)}result = {_expression(shown.question)}\n{_resize(shown.question)}"
            code += 'print("characters built:", len(result))\nprint("best variable: result")\n'
            built = cells.turn("The answer is long, so code builds it in a variable.", "build", code)
            return f"{built}\n\nFINAL_VAR(result)"


def _expression(question: str) -> str:
    for pattern, expression in _TRANSFORMS:
        if re.search(pattern, question, re.IGNORECASE | re.DOTALL):
            return expression
    return '"\\n".join(texts)'


def _resize(question: str) -> str:
    size = _SIZE.search(question)
    if size is None:
        return ""
    characters = min(int(size.group(1)) * _UNITS[size.group(2).lower()], LARGEST)
    return f'result = ((result or ".") * ({characters} // max(1, len(result)) + 1))[:{characters}]\n'
