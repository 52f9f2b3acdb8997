"""Never has enough: another batch of sub-calls every turn, and no answer until it is asked for its last words."""

from service.models.scripted import cells
from service.models.scripted.transcript import Shown

BATCH = 64


def next_reply(shown: Shown) -> str:
    if not shown.steps:
        return cells.peek()
    number = len(shown.steps)
    code = (
        f"{cells.materials(shown)}"
        "text = texts[0]\n"
        f"parts = [text[len(text) * i // {BATCH} :][: min(4000, len(text) // {BATCH} + 1)] for i in range({BATCH})]\n"
        f'head = "Question (round {number}, part %d): "\n'
        'prompts = [head % i + question + "\\n\\nText:\\n" + part for i, part in enumerate(parts)]\n'
        "replies = llm_query_batched(prompts)\n"
        f"{cells.TALLY}"
        'print("answered:", sum(getattr(reply, "ok", True) for reply in replies), "of", len(replies))\n'
        f"{cells.SHOW_BEST}"
    )
    return cells.turn("I want to be surer still, so I ask again about every part.", "ask", code)
