"""Partitions the context, maps one sub-call over each part in one batch, and reduces: a sum where the question
counts, otherwise the answer most parts agree on."""

from service.models.scripted import cells
from service.models.scripted.keywords import read_wish
from service.models.scripted.transcript import Shown

PARTITION = """\
def parts_of(text, size):
    parts, start = [], 0
    while start < len(text):
        end = min(len(text), start + size)
        if end < len(text):
            end = text.rfind("\\n", start, end) + 1 or end
        parts.append(text[start:end])
        start = end
    return parts

total = sum(map(len, texts))
size = min(200_000, max(20_000, -(-total // 32)))
parts = [part for text in texts for part in parts_of(text, size)]
if len(parts) > 96:
    print(f"of {len(parts)} parts, 96 are read, evenly spread")
    parts = [parts[i * len(parts) // 96] for i in range(96)]
"""
"""At most 96 parts of at most 200,000 characters, cut at line ends."""

_MAP = """\
replies = llm_query_batched(["Question: " + question + "\\n\\nText:\\n" + part for part in parts])
print("parts:", len(parts), "failed:", sum(not getattr(reply, "ok", True) for reply in replies))
"""

_COUNT = """\
lines = (line.lower() for text in texts for line in text.splitlines())
best = str(sum(1 for line in lines if line.strip() and all(word in line for word in words)))
"""

COUNT_IN_CODE_CHARS = 96 * 200_000
"""More than the parts can hold: a count that leaves parts out is wrong, so code counts."""

_SUM = 'best = str(sum(int(reply) for reply in good if reply.isdecimal()))\nprint("sum over", len(good), "parts")\n'


def next_reply(shown: Shown) -> str:
    match shown.last_step:
        case None:
            return cells.peek()
        case "peek" if shown.has_failed:
            return cells.peek()
        case "map" | "count" if not shown.has_failed:
            return cells.submit(shown)
        case "submit":
            return cells.submit(shown)
        case _ if shown.number("characters") > COUNT_IN_CODE_CHARS and read_wish(shown.question).count:
            words = cells.literal(read_wish(shown.question).words)
            code = f"{cells.materials(shown)}words = {words}\n{_COUNT}{cells.SHOW_BEST}"
            return cells.turn("Counting over so much is work for code, not for sub-calls.", "count", code)
        case _:
            code = f"{cells.materials(shown)}{PARTITION}question = {cells.literal(shown.question)}\n{_MAP}{cells.TALLY}"
            code += (_SUM if read_wish(shown.question).count else "") + cells.SHOW_BEST
            return cells.turn("I cut it into parts and have a sub-call read each of them.", "map", code)
