"""What the loop itself says to the root LM between turns: one sentence per rule, and the two closing requests.

How to work is said in the prompt pack, which is data; these sentences belong to rules of the machine and
change with them.
"""

import json
from typing import Any

from service.ids import RunId, turn_of
from service.loop.events import NamespaceRebuilt

REMINDER = (
    "Your reply held neither code nor a final answer. Write code in a ```repl fence, or end with FINAL(answer) or "
    "FINAL_VAR(variable_name) at the start of a line."
)
FINAL_BESIDE_FAILED_CELL = (
    "Your final answer was not accepted, because code in the same reply failed. Look at what happened, then answer "
    "again."
)
FINAL_BESIDE_CODE = (
    "Your FINAL(...) was not accepted yet, because it was written before the output above could be seen. If it "
    "still holds, repeat it in a reply without code."
)
FIRST_TURN_FINAL = (
    "You answered before any code looked at the context. If the answer depends on the context, inspect it first; "
    "if it does not, repeat your final answer."
)
ANSWER_UNCHANGED = (
    "`answer` still holds the content that was not accepted. Change `answer['content']` before you submit again."
)
BLOCKS_SKIPPED = "Later code blocks of this reply were not run, because this one did not end well."
HISTORY_MOVED = (
    "Earlier turns were moved out of this conversation to make room: the list `history` in the REPL holds them in "
    "full (dicts with `role` and `content`). Variables are unchanged. Go on from the summary above."
)
NO_SUMMARY = "(No summary could be made; the earlier turns are in `history`.)"
COMPACTION_REQUEST = (
    "This conversation is about to be shortened. Do not write code now. Summarise your progress in at most 400 words "
    "for yourself: what was asked, what you found (with figures), which variables hold what, what failed, what "
    "remains to be done."
)


def missing_variable(name: str) -> str:
    return f"There is no variable `{name}`, so FINAL_VAR({name}) was not taken. Assign it in code, then repeat."


def answer_too_large(limit_bytes: int) -> str:
    return (
        f"The answer is larger than the {limit_bytes} bytes that this run may return. Make it smaller and submit it "
        "again; a second answer over the limit ends the run without it."
    )


def answer_unusable(message: str) -> str:
    return f"The answer was not accepted: {message or 'its value could not be read'}. Correct it and submit it again."


NOT_JSON = (
    "the answer of this run must be JSON; build the value in code and submit it with FINAL(value) in a ```repl fence, "
    "or write valid JSON inside FINAL(...)"
)


def namespace_rebuilt(rebuilt: NamespaceRebuilt, run: RunId) -> str:
    missing, diverged, files = rebuilt.missing, rebuilt.diverged, rebuilt.missing_files
    if not rebuilt.lost_something:
        return "The interpreter had to be restarted; your variables were brought back by re-running earlier cells."
    told = ["The interpreter had to be restarted, and earlier cells were run again."]
    if diverged:
        turns = sorted({turn for cell in diverged if (turn := turn_of(cell, run)) is not None})
        of = f" (of turn {', '.join(str(turn) for turn in turns[:20])})" if turns else ""
        told.append(
            f"{len(diverged)} of them did not end as before{of}, so variables may hold other values than you have "
            "seen: look at them before you rely on them."
        )
    if missing:
        names = ", ".join(missing[:40])
        more = f" and {len(missing) - 40} more" if len(missing) > 40 else ""
        told.append(f"These variables are lost and must be made again: {names}{more}.")
    if files:
        paths = ", ".join(files[:20])
        more = f" and {len(files) - 20} more" if len(files) > 20 else ""
        told.append(f"These files could not be put back: {paths}{more}.")
    return " ".join(told)


def diverged(cells: tuple[str, ...]) -> str:
    """For people: why a run that was not to go on after a divergence was stopped."""
    more = f" and {len(cells) - 5} more" if len(cells) > 5 else ""
    named = ", ".join(cells[:5])
    return f"cells that were run again did not end as they had: {named}{more}"


def schema_rule(schema: dict[str, Any]) -> str:
    return f"The answer must be JSON that satisfies this JSON Schema: {json.dumps(schema, ensure_ascii=False)}"


def wrap_up_request(why: str, schema: dict[str, Any] | None) -> str:
    form = (
        "Reply with the answer itself and nothing else (or FINAL_VAR(variable_name) to return a variable's value)."
        if schema is None
        else f"{schema_rule(schema)}\nReply with that JSON and nothing else (or FINAL_VAR(variable_name))."
    )
    return (
        f"This is your last message: {why}. No code can run any more. Give the best answer that what you have seen "
        f"supports, and say briefly what is uncertain or missing. {form}"
    )
