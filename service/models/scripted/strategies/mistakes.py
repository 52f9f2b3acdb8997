"""Makes every mistake that root LMs are known for, one per turn, hears what it is told, and still finds the answer.

Each mistake is a whole reply. The reply after it begins with what the loop said about it, so that a reader of the
trajectory sees cause and effect. When all are made, it goes on as `grep` does.
"""

import re
from dataclasses import dataclass

from service.models.scripted.strategies import grep
from service.models.scripted.transcript import Shown

_MARKER = re.compile(r"\(mistake: (\w+)\)")
_TOLD_CHARS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    name: str
    reply: str


def _fenced(code: str, label: str = "repl") -> str:
    return f"```{label}\n{code}\n```"


MISTAKES = (
    Mistake(name="final_on_the_first_turn", reply="FINAL(42)"),
    Mistake(name="other_fence_label", reply=_fenced("ls -l", "bash")),
    Mistake(name="unclosed_fence", reply="```repl\nprint('the fence is not closed', len(context))"),
    Mistake(name="indented_fence", reply="1. Look:\n\n   ```repl\n   print(len(context))\n   ```"),
    Mistake(
        name="fence_inside_a_string",
        reply=_fenced('report = """\n```python\nprint("not code")\n```\n"""\nprint("report has", len(report))'),
    ),
    Mistake(name="final_var_of_a_missing_name", reply="FINAL_VAR(no_such_variable)"),
    Mistake(name="final_beside_a_cell_that_raises", reply=_fenced("kept = 1\n1 / 0") + "\n\nFINAL(the plan worked)"),
    Mistake(name="final_beside_code", reply=_fenced("print(type(context).__name__)") + "\n\nFINAL(a guess)"),
    Mistake(name="empty_reply", reply=""),
    Mistake(name="prose_alone", reply="I will now think about where to look."),
    Mistake(name="overwritten_names", reply=_fenced("llm_query = None\ncontext = None\nprint('overwritten')")),
    Mistake(name="used_after_overwriting", reply=_fenced("print(callable(llm_query), context is not None)")),
    Mistake(name="badly_closed_fence", reply="```repl\nprint('closed badly')\n``` and so on."),
    Mistake(name="final_inside_a_string", reply=_fenced('plan = "FINAL(not meant)"\nprint(plan)')),
    Mistake(
        name="second_block_after_one_that_raises", reply=_fenced("undefined_name") + "\n\n" + _fenced("print('no')")
    ),
    Mistake(name="printing_too_much", reply=_fenced("print('x' * 1_000_000)")),
    Mistake(name="rebound_answer", reply=_fenced("answer = 'rebound'\nprint(type(answer).__name__)")),
    Mistake(name="infinite_loop", reply=_fenced("before_the_loop = 1\nwhile True:\n    pass")),
    Mistake(name="exit_of_the_kernel", reply=_fenced("import os\nos._exit(1)")),
)


def next_reply(shown: Shown) -> str:
    at = _made(shown)
    if at >= len(MISTAKES):
        return grep.next_reply(shown)
    mistake = MISTAKES[at]
    if not mistake.reply:
        return ""
    told = f"{_told(shown)}\n\n" if at else ""
    return f"{told}(mistake: {mistake.name})\n\n{mistake.reply}"


def _made(shown: Shown) -> int:
    """How many mistakes have been made: up to the last marker in sight, and the replies without one that followed."""
    if shown.steps:
        return len(MISTAKES)
    names = [mistake.name for mistake in MISTAKES]
    made = 0
    for reply in shown.replies:
        marker = _MARKER.search(reply)
        made = names.index(marker.group(1)) + 1 if marker and marker.group(1) in names else made + 1
    return made


def _told(shown: Shown) -> str:
    """The loop's last remark: the last line of the observation that is not a line of figures."""
    lines = [line.strip() for line in shown.observation.splitlines()]
    remarks = [line for line in lines if len(line) > 20 and not line.startswith(("[", "Output of"))]
    remark = remarks[-1] if remarks else "nothing"
    return f"I was told: {remark.replace('`', '')[:_TOLD_CHARS]}"
