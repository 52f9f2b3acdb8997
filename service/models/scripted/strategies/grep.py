"""Searches for the question's words in code, has sub-calls read the best hits with their surroundings, submits."""

import re

from service.models.scripted import cells
from service.models.scripted.keywords import Wish, read_wish
from service.models.scripted.strategies import mapping
from service.models.scripted.transcript import Shown

MAP_INSTEAD_CHARS = 4_000_000
"""Up to this size, reading everything in parts is the second resort; beyond, the best hit has to do."""

_GREP = """\
found = {}
for number, text in enumerate(texts):
    spots = {}
    for pattern, weight in patterns:
        matches = re.finditer(pattern, text, re.IGNORECASE)
        spots[pattern] = [match.start() for match in islice(matches, 5000)]
        print(f"{pattern!r} in {names[number]}: {len(spots[pattern])}")
    spots = {pattern: places for pattern, places in spots.items() if places}
    telling = [pattern for pattern in spots if len(spots[pattern]) <= 200]
    for pattern in telling or sorted(spots, key=lambda pattern: len(spots[pattern]))[:1]:
        for place in spots[pattern]:
            start = text.rfind("\\n", max(0, place - 300), place) + 1 or max(0, place - 300)
            end = text.find("\\n", place, place + 300)
            found[number, start] = text[start : end if end >= 0 else place + 300]

def score(line):
    points = sum(weight for pattern, weight in patterns if re.search(pattern, line, re.IGNORECASE))
    return points + (wants_number and bool(re.search(r"\\d", line)))

hits = sorted(found.items(), key=lambda item: (-score(item[1]), item[0]))[:8]
print("hits:", len(found))
for (number, start), line in hits:
    print(f"score {score(line)} at {names[number]}[{start}]: {json.dumps(line[:200])}")
best = hits[0][1].strip() if hits else None
"""

_VERIFY = """\
prompts = []
for width in (200, 1000, 5000) if len(hits) < 4 else (200,):
    for (number, start), line in hits:
        excerpt = texts[number][max(0, start - width) : start + len(line) + width]
        task = "Question: " + question + "\\nAnswer from the text alone, or say NOT FOUND."
        prompts.append(task + "\\n\\nText:\\n" + excerpt)
replies = llm_query_batched(prompts)
for number, reply in enumerate(replies, start=1):
    print(f"reply {number}: {json.dumps(str(reply)[:200])}")
"""


def next_reply(shown: Shown) -> str:
    match shown.last_step:
        case None:
            return cells.peek()
        case "peek" if shown.has_failed:
            return cells.peek()
        case "peek":
            return search(shown)
        case "grep" | "verify" if shown.has_failed:
            return search(shown)
        case "grep" if shown.number("hits") > 0:
            return _verify(shown)
        case "verify" if shown.number("verified") > 0:
            return cells.submit(shown)
        case "grep" | "verify" if shown.number("characters") > MAP_INSTEAD_CHARS:
            return cells.submit(shown)
        case "submit":
            return cells.submit(shown)
        case _:  # also `map` and `count`, once they have been begun
            return mapping.next_reply(shown)


def search(shown: Shown) -> str:
    """The cell that searches."""
    wish = read_wish(shown.question)
    code = f"{cells.materials(shown)}patterns = {cells.literal(_patterns(wish))}\nwants_number = {wish.number}\n"
    prose = f"It is too much to read, so I search it for the words of the question: {', '.join(wish.words)}."
    return cells.turn(prose, "grep", code + _GREP + cells.SHOW_BEST)


def _patterns(wish: Wish) -> list[tuple[str, int]]:
    """Pairs weigh more than words: two common words side by side are rare, and with a number after them rarer."""
    pairs = [rf"\b{re.escape(first)}\W{{1,3}}{re.escape(second)}" for first, second in wish.pairs]
    with_number = [(rf"{pair}[^\n]{{0,80}}?\d", 2) for pair in pairs if wish.number]
    words = [(rf"\b{re.escape(word)}", 1) for word in wish.words]
    return [*with_number, *((pair, 3) for pair in pairs), *words]


def _verify(shown: Shown) -> str:
    code = f"{cells.materials(shown)}{_VERIFY}{cells.TALLY}"
    code += f'print("verified:", len(good))\n{cells.SHOW_BEST}'
    prose = f"Places found: {shown.number('hits')}. Sub-calls read the best of them with their surroundings."
    return cells.turn(prose, "verify", code)
