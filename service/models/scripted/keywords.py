"""The words of a question worth searching for, and what kind of answer it wants. All the understanding there is."""

import re
from dataclasses import dataclass

MOST_KEYWORDS = 12

_WORD = re.compile(r"[^\W_][\w'’-]*")
_UNTELLING_WORDS = """
about above across after again all along also among and another any anybody anyone anything are ask asked asks
because been before being below between both but can cannot come could did does doing done down each either else
even ever every exactly few find finding first follow following for from gave get give given gives going got had
has have having her here hers him his how however i'd i'll i'm i've into isn't it's its just know known last later
least less let like likely look looking looks made make makes many may maybe mean means might more most much must
name near need needs neither never next nor not now off often once one only other our out over own per please
question questions quite rather read really reply said same say says see seem sentence she should show shows since
some somebody someone something somewhere still such take tell text than that that's the their them then there
there's these they thing things this those through thus till too toward under until upon use used using very want
wanted wants was way well went were what what's when where whether which while who whom whose why will with within
without would write yes yet you your answer answers content contents context contexts contained contains contain
document documents file files hidden passage somewhere excerpt line lines word words mention mentions mentioned
mentioning count entry entries item items record records total each every summarise summarize summary
"""
_UNTELLING = frozenset(_UNTELLING_WORDS.split())
_NUMBER_WANTED = re.compile(
    r"\bhow (many|much|old|long|tall|far|big|large)\b|\b(number|numbers|code|codes|id|ids|year|date|price|amount|sum|"
    r"total|count|percent|percentage|age|figure|figures|value|digits?|pin|temperature|distance|weight)\b",
    re.IGNORECASE,
)
_COUNT_WANTED = re.compile(r"\bhow many\b|\bcount (the|all|how)\b|\bnumber of\b", re.IGNORECASE)
_SUMMARY_WANTED = re.compile(r"\bsummar(y|ies|i[sz]e|i[sz]ing)\b|\bgist\b|\boverview\b|\babstract\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a question asks for."""

    words: tuple[str, ...]
    """Lower case, in order of appearance, without those that tell nothing."""
    pairs: tuple[tuple[str, str], ...]
    """Words that stand side by side in the question: rarer than each alone."""
    number: bool
    count: bool
    summary: bool


def read_wish(question: str) -> Wish:
    """Words, pairs and kind of a question."""
    found = [match.group().lower().strip("'’-") for match in _WORD.finditer(question[:4000])]
    words: list[str] = []
    pairs: list[tuple[str, str]] = []
    previous: str | None = None
    for raw in found:
        word = raw.removesuffix("'s").removesuffix("’s")
        if (len(word) < 3 and not word.isdecimal()) or word in _UNTELLING:
            previous = None
            continue
        if word not in words:
            words.append(word)
        if previous is not None and (previous, word) not in pairs:
            pairs.append((previous, word))
        previous = word
    return Wish(
        words=tuple(words[:MOST_KEYWORDS]),
        pairs=tuple(pairs[:MOST_KEYWORDS]),
        number=_NUMBER_WANTED.search(question) is not None,
        count=_COUNT_WANTED.search(question) is not None,
        summary=_SUMMARY_WANTED.search(question) is not None,
    )


def frequent_words(text: str, most: int) -> list[str]:
    """The most frequent telling words of a text, ties in order of appearance."""
    counts: dict[str, int] = {}
    for match in _WORD.finditer(text[:200_000]):
        word = match.group().lower()
        if len(word) > 3 and word not in _UNTELLING and not word.isdecimal():
            counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=lambda word: -counts[word])[:most]
