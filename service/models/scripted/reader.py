"""The scripted sub-LM: answers a prompt from the text in the prompt, by keywords and nothing else.

count       how many lines speak of the keywords
classify    which of the offered labels the text names most
summarise   the first sentence and the most frequent words
find        the line that shares most with the question; only its number, if a number is wanted

Prompts are hostile and long, so every pattern takes linear time: what may repeat without end neither crosses a line
that the pattern can begin on nor stands beside another that may.
"""

import re
from dataclasses import dataclass

from service.models.scripted.keywords import Wish, frequent_words, read_wish

NOT_FOUND = "NOT FOUND"
LONGEST_LINE = 500

_INSTRUCTION = re.compile(
    r"^[ \t]*(?:Question|Task|Instruction|Instructions|Query)[ \t]*:\s*", re.MULTILINE | re.IGNORECASE
)
_TEXT = re.compile(
    r"^[ \t]*(?:Text|Context|Excerpt|Document|Documents|Chunk|Passage|Content|Data)[ \t]*:[ \t]*\n?",
    re.MULTILINE | re.IGNORECASE,
)
_LABELS = re.compile(r"\b(?:one of|labels?|categories|classes)\b[^:\n]{0,40}:?\s{0,8}([^\n.?]{3,300})", re.IGNORECASE)
_CLASSIFY = re.compile(r"\bclassif|\blabel\b|\bcategor|\bone of\b", re.IGNORECASE)
_YES_NO = re.compile(
    r"^(?:is|are|was|were|does|do|did|has|have|can|could|will|would|should)\b|\byes or no\b", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*(?!\w)")
_SENTENCE = re.compile(r"\S[^.!?\n]{0,400}[.!?]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    instruction: str
    text: str


def answer(prompt: str) -> str:
    """The reply to a plain prompt."""
    asked = split(prompt)
    return answer_from(asked.instruction, asked.text)


def answer_from(instruction: str, text: str) -> str:
    """The reply to an instruction about a text."""
    wish = read_wish(instruction)
    labels = _labels(instruction)
    if labels:
        return classify(labels, text)
    if wish.count:
        return str(len(matching_lines(wish, text)))
    if wish.summary:
        return summarise(text)
    if _YES_NO.search(instruction.strip()):
        return "yes" if matching_lines(wish, text) else "no"
    return find(wish, text)


def split(prompt: str) -> Prompt:
    """Which part of a prompt asks and which part is asked about.

    Markers decide (`Question:` … `Text:` …). Without them the first paragraph that asks something is the
    instruction and the rest the text; a prompt of one paragraph is both.
    """
    text_marker = _TEXT.search(prompt)
    asked_marker = _INSTRUCTION.search(prompt[: text_marker.start()] if text_marker else prompt[:20_000])
    if text_marker is not None:
        head = prompt[asked_marker.end() : text_marker.start()] if asked_marker else prompt[: text_marker.start()]
        if head.strip():
            return Prompt(instruction=head.strip(), text=prompt[text_marker.end() :])
    if asked_marker is not None:
        instruction, _, rest = prompt[asked_marker.end() :].partition("\n")
        return Prompt(instruction=instruction.strip(), text=f"{prompt[: asked_marker.start()]}{rest}")
    first, _, rest = prompt.strip().partition("\n\n")
    if rest:
        return Prompt(instruction=first, text=rest)
    first, _, rest = prompt.strip().partition("\n")
    return Prompt(instruction=first, text=rest or first)


def find(wish: Wish, text: str) -> str:
    """The best line, or its number; `NOT_FOUND` where no line shares half of the keywords."""
    if not wish.words:
        sentence = _SENTENCE.search(text)
        return sentence.group().strip() if sentence else NOT_FOUND
    best, best_score = "", 0
    for line in text.splitlines():
        score = _score(wish, line)
        if score > best_score:
            best, best_score = line, score
    if 2 * best_score < len(wish.words):
        return NOT_FOUND
    if wish.number:
        return nearest_number(wish, best) or NOT_FOUND
    return best.strip()[:LONGEST_LINE]


def matching_lines(wish: Wish, text: str) -> list[str]:
    """The lines that hold every keyword (every line that is not empty, when there is none)."""
    return [line for line in text.splitlines() if line.strip() and all(word in line.lower() for word in wish.words)]


def classify(labels: list[str], text: str) -> str:
    """The label that occurs most; the first one, when none occurs."""
    lowered = text.lower()
    return max(labels, key=lambda label: lowered.count(label.lower()))


def summarise(text: str) -> str:
    """One sentence, and what the text is about judged by frequency."""
    sentence = _SENTENCE.search(text)
    if sentence is None:
        return "The text is empty."
    words = ", ".join(frequent_words(text, 3))
    return f"{sentence.group().strip()[:200]}{f' (mostly about: {words})' if words else ''}"


def nearest_number(wish: Wish, line: str) -> str | None:
    """The number that follows the last keyword in a line, else the one closest before it."""
    numbers = list(_NUMBER.finditer(line))
    if not numbers:
        return None
    lowered = line.lower()
    anchor = max((lowered.rfind(word) for word in wish.words if not word.isdecimal()), default=0)
    after = [match for match in numbers if match.start() >= anchor]
    return (after[0] if after else numbers[-1]).group()


def _score(wish: Wish, line: str) -> int:
    lowered = line.lower()
    score = sum(1 for word in wish.words if word in lowered)
    if score == 0:
        return 0
    score += 2 * sum(
        1 for first, second in wish.pairs if re.search(rf"{re.escape(first)}\W+{re.escape(second)}", lowered)
    )
    return score + (1 if wish.number and _NUMBER.search(line) else 0)


def _labels(instruction: str) -> list[str]:
    if not _CLASSIFY.search(instruction):
        return []
    offered = _LABELS.search(instruction)
    if offered is None:
        return []
    parts = re.split(r",|/|\||\bor\b|\band\b|;", offered.group(1))
    labels = [part.strip(" \"'`()[]:") for part in parts]
    labels = [label for label in labels if 0 < len(label) <= 60]
    return labels if len(labels) > 1 else []
