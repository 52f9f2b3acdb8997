"""Reads the beginning and leaves the rest to one sub-call: enough where everything fits a window."""

from service.models.scripted import cells
from service.models.scripted.transcript import Shown

_READ = """\
text = "\\n\\n".join(texts)[:100_000]
reply = llm_query("Question: " + question + "\\n\\nText:\\n" + text)
replies = [reply]
print("reply:", json.dumps(str(reply)[:2000]))
"""


def next_reply(shown: Shown) -> str:
    match shown.last_step:
        case None:
            return cells.peek()
        case "peek" if shown.has_failed:
            return cells.peek()
        case "read" if not shown.has_failed:
            return cells.submit(shown)
        case "submit":
            return cells.submit(shown)
        case _:
            code = f"{cells.materials(shown)}"
            code += _READ + cells.TALLY + cells.SHOW_BEST
            return cells.turn("It is small enough to be read at once, so a sub-call reads it.", "read", code)
