"""Summarises each part by a sub-call, then the summaries by one more."""

from service.models.scripted import cells
from service.models.scripted.strategies.mapping import PARTITION
from service.models.scripted.transcript import Shown

_MAP = """\
replies = llm_query_batched(["Question: Summarise this in one sentence.\\n\\nText:\\n" + part for part in parts])
summaries = [str(reply) for reply in replies if getattr(reply, "ok", True)]
print("parts:", len(parts), "summaries:", len(summaries))
for summary in summaries[:5]:
    print("-", json.dumps(summary[:200]))
best = " ".join(summaries)[:2000] or None
"""

_REDUCE = """\
replies = [llm_query("Question: Summarise these summaries.\\n\\nText:\\n" + "\\n".join(summaries))]
"""


def next_reply(shown: Shown) -> str:
    match shown.last_step:
        case None:
            return cells.peek()
        case "peek" if shown.has_failed:
            return cells.peek()
        case "summarise" if not shown.has_failed:
            code = _REDUCE + cells.TALLY + cells.SHOW_BEST
            return cells.turn("Now the summaries are summarised.", "reduce", code)
        case "reduce" if not shown.has_failed:
            return cells.submit(shown)
        case "submit":
            return cells.submit(shown)
        case _:
            code = cells.materials(shown) + PARTITION + _MAP + cells.SHOW_BEST
            return cells.turn("I cut it into parts and have a sub-call summarise each.", "summarise", code)
