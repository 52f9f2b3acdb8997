"""Gives each third of the context to a child run, which does the same, until the parts are small or the depth ends.
Where the depth ends at parts that no window holds, their run searches instead.
"""

from service.models.scripted import cells
from service.models.scripted.keywords import read_wish
from service.models.scripted.strategies import grep
from service.models.scripted.transcript import Shown

_RECURSE = """\
text = "\\n".join(texts)
if len(text) <= 3000:
    replies = [llm_query("Question: " + question + "\\n\\nText:\\n" + text)]
else:
    lines = text.splitlines(keepends=True)
    cuts = [len(lines) * i // 3 for i in range(4)]
    thirds = ["".join(lines[start:end]) for start, end in zip(cuts, cuts[1:]) if start < end]
    replies = rlm_query_batched(["Question: " + question + "\\n\\nText:\\n" + third for third in thirds])
for number, reply in enumerate(replies, start=1):
    print(f"reply {number}: {json.dumps(str(reply)[:200])}")
"""

_UNREAD = """\
print("verified:", len(good))
print("unread:", sum(not getattr(reply, "ok", True) for reply in replies))
"""

_SUM = "best = str(sum(int(reply) for reply in good if reply.isdecimal()))\n"


def next_reply(shown: Shown) -> str:
    match shown.last_step:
        case None:
            return cells.peek()
        case "peek" if shown.has_failed:
            return cells.peek()
        case "recurse" if not shown.has_failed and shown.number("unread") and not shown.number("verified"):
            return grep.search(shown)
        case "recurse" if not shown.has_failed:
            return cells.submit(shown)
        case "grep" | "verify" | "map" | "count":
            return grep.next_reply(shown)
        case "submit":
            return cells.submit(shown)
        case _:
            code = f"{cells.materials(shown)}{_RECURSE}{cells.TALLY}{_UNREAD}"
            code += (_SUM if read_wish(shown.question).count else "") + cells.SHOW_BEST
            return cells.turn("Each third goes to a child run with the same question.", "recurse", code)
