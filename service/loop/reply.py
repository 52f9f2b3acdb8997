r"""The grammar of a root LM's reply: which code runs, what is declared final, what was nearly either.

    reply   = { prose line | final | fence }
    fence   = opening line, code, closing line        runs when labelled `repl` or `python` in any case
    final   = FINAL(text) | FINAL_VAR(name)           at the start of a prose line, over several lines if need be

Reading is lenient because the reader's only other choice is a wasted turn, but never guesses about code:

- A code fence ends at the first line that begins with its own marker (same character, at least as long)
  *outside a string literal of the code*. Outside a string no line of Python begins with a backtick, and a model
  that prints Markdown from a triple-quoted string is not cut short. If that never happens (an unbalanced
  quote), the first clean closing line ends it after all, and without one the fence runs to the end.
- A line that ends a fence although it carries text ends it badly: the code counts, the model is told.
- Everything is one forward pass; whatever could look back or ahead is bounded, so that the time is linear in
  the reply's size whatever it contains. `parse` never raises.
"""

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RUNNABLE = ("repl", "python")

MAX_BLOCKS = 64
"""More blocks than this in one reply are not a plan but a runaway; the rest is not run, and the model is told."""

MAX_NEAR_MISSES = 5
_MAX_STRING_FALLBACKS = 4
"""How often the end of a fence or a final may be searched for in vain, up to the end of the reply, before strings are
no longer looked at."""

_MARKER = re.compile(r"([ \t]*)(`{3,}|~{3,})(.*)", re.DOTALL)
_CODE_TOKEN = re.compile(r"'''|\"\"\"|'|\"|#")
_STRING_END = {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in ("'''", '"""', "'", '"')}
_FINAL = re.compile(r"[ \t]{0,3}(?:\*\*|`)?FINAL(_VAR)?\(")
_FINAL_VAR = re.compile(r"\s{0,99}([\"'`]?)([^\W\d]\w{0,199})\1\s{0,99}\)")
_RUNNABLE_OPENING = re.compile(r"^(?:`{3,}|~{3,})[ \t]*(?:repl|python)\b", re.IGNORECASE | re.MULTILINE)
_BRACKET_OR_QUOTED = re.compile(r"[()]|\"[^\"\n]*\"")
_BRACKET = re.compile(r"[()]")
_STRING_LITERAL = re.compile(
    r"\s*(\"\"\"(?:[^\\\"]|\\.|\"(?!\"\"))*\"\"\"|'''(?:[^\\']|\\.|'(?!''))*'''"
    r"|\"(?:[^\\\"\n]|\\.)*\"|'(?:[^\\'\n]|\\.)*')\s*\)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """What the reply's text declares to be the answer: the text itself, or the name of a variable."""

    kind: Literal["text", "variable"]
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply, read."""

    blocks: tuple[str, ...]
    """The code of each runnable fence, in order, exactly as written."""
    final: Final | None
    """The last final of the prose: a model that quotes the rule first says what it means afterwards."""
    near_misses: tuple[str, ...]
    """One sentence for the model about each thing that looks like code or a final and is not."""
    prose: str
    """What stands outside fences."""
    fenced: str
    """The inside of the last fence that does not run, for replies that are one fence around the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fence:
    label: str
    indented: bool
    code: str
    badly_closed: bool
    next_line: int

    @property
    def is_runnable(self) -> bool:
        return self.label in RUNNABLE and not self.indented


def parse(text: str) -> Reply:
    """Read a reply. Any string is one."""
    return _Reader(visible(text)).read()


def visible(text: str) -> str:
    """The reply without a leading `<think>` part, which some servers leave in: thoughts are not said."""
    start = len(text) - len(text.lstrip())
    if not text.startswith("<think>", start):
        return text
    end = text.find("</think>", start)
    return text if end < 0 else text[end + len("</think>") :]


class _Reader:
    """One pass over the lines of one reply."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = text.splitlines(keepends=True) if _has_only_newlines(text) else _split_lines(text)
        self._offsets = _offsets(self._lines)
        self._fallbacks = 0
        self._no_bracket_before = -1
        self._next_code = -1
        self._final: Final | None = None
        self._prose: list[str] = []
        self._fences: list[_Fence] = []
        self._open_finals = 0

    def read(self) -> Reply:
        line = 0
        while line < len(self._lines):
            fence = self._fence_at(line)
            if fence is not None:
                self._fences.append(fence)
                line = fence.next_line
            else:
                after = self._final_at(line)
                self._prose.extend(self._lines[line:after])
                line = after
        runnable = [fence for fence in self._fences if fence.is_runnable and fence.code.strip()]
        other = [fence for fence in self._fences if not fence.is_runnable]
        return Reply(
            blocks=tuple(fence.code for fence in runnable[:MAX_BLOCKS]),
            final=self._final,
            near_misses=self._near_misses(runnable, other),
            prose="".join(self._prose).strip(),
            fenced=other[-1].code.strip() if other else "",
        )

    def _fence_at(self, line: int) -> _Fence | None:
        opening = _MARKER.match(self._lines[line])
        if opening is None or (opening[2][0] == "`" and "`" in opening[3]):
            return None
        words = opening[3].split(maxsplit=1)
        label = words[0].lower() if words else ""
        is_code = label in RUNNABLE and not opening[1]
        find_end = self._end_of_code if is_code else self._end_of_labelled if label else self._end_of_unlabelled
        closing = find_end(line + 1, opening[2])
        code = "".join(self._lines[line + 1 : closing])
        closing_text = self._lines[closing] if closing < len(self._lines) else ""
        reopens = _RUNNABLE_OPENING.match(closing_text) is not None
        return _Fence(
            label=label,
            indented=bool(opening[1]),
            code=code.removesuffix("\n").removesuffix("\r"),
            badly_closed=bool(closing_text) and not _is_clean_closing(closing_text, opening[2]),
            next_line=closing if reopens else closing + 1,
        )

    def _end_of_code(self, start: int, marker: str) -> int:
        """The line that ends a code fence, or the number of lines when none does."""
        looks_at_strings = self._fallbacks < _MAX_STRING_FALLBACKS
        first_clean: int | None = None
        quote = ""
        for number in range(start, len(self._lines)):
            line = self._lines[number]
            is_clean = _is_clean_closing(line, marker)
            if is_clean and first_clean is None:
                first_clean = number
            # A line of Python may begin with tildes (`~~~mask`), so only backticks end a fence uncleanly.
            ends = is_clean or (marker[0] == "`" and line.lstrip(" \t").startswith(marker))
            if ends and not (quote and looks_at_strings):
                return number
            if looks_at_strings:
                quote = _open_quote_after(line, quote)
        self._fallbacks += 1
        return len(self._lines) if first_clean is None else first_clean

    def _end_of_labelled(self, start: int, marker: str) -> int:
        """A fence of another language holds no Python to understand: the first clean closing line ends it."""
        for number in range(start, len(self._lines)):
            if _is_clean_closing(self._lines[number], marker):
                return number
        return len(self._lines)

    def _end_of_unlabelled(self, start: int, marker: str) -> int:
        """A fence without a label is often a closing line too many, so it must not swallow code that follows."""
        for number in range(start, len(self._lines)):
            line = self._lines[number]
            if _is_clean_closing(line, marker) or _RUNNABLE_OPENING.match(line):
                return number
        return len(self._lines)

    def _final_at(self, line: int) -> int:
        """Take the final that starts on this line, if one does. Returns the next line to read."""
        opening = _FINAL.match(self._lines[line])
        if opening is None:
            return line + 1
        start = self._offsets[line] + opening.end()
        if opening[1]:
            name = _FINAL_VAR.match(self._text, start)
            if name is None:
                self._open_finals += 1
                return line + 1
            self._final = Final(kind="variable", value=name[2])
            return self._line_after(name.end())
        if start < self._no_bracket_before:
            return line + 1
        region_end = self._start_of_next_code(start)
        end = self._closing_bracket(start, region_end)
        if end is None:
            self._no_bracket_before = region_end
            self._open_finals += 1
            return line + 1
        self._final = Final(kind="text", value=_final_text(self._text[start:end]))
        return self._line_after(end)

    def _start_of_next_code(self, start: int) -> int:
        if start > self._next_code:
            found = _RUNNABLE_OPENING.search(self._text, start)
            self._next_code = found.start() if found else len(self._text)
        return self._next_code

    def _closing_bracket(self, start: int, end: int) -> int | None:
        """Where the bracket opened just before `start` closes: brackets balance, `"…"` on one line is opaque."""
        text = self._text
        if literal := _STRING_LITERAL.match(text, start, end):
            return literal.end() - 1
        if self._fallbacks < _MAX_STRING_FALLBACKS:
            closing = _balanced(_BRACKET_OR_QUOTED, text, start, end)
            if closing is not None:
                return _past_smileys(text, closing, end)
            self._fallbacks += 1
        closing = _balanced(_BRACKET, text, start, end)
        if closing is not None:
            return _past_smileys(text, closing, end)
        last = text.rfind(")", start, end)
        return None if last < 0 else last

    def _line_after(self, offset: int) -> int:
        low, high = 0, len(self._offsets)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._offsets[middle] <= offset else (low, middle)
        return low

    def _near_misses(self, runnable: Sequence[_Fence], other: Sequence[_Fence]) -> tuple[str, ...]:
        told: list[str] = []
        if any(fence.badly_closed for fence in runnable):
            told.append("A code fence was closed badly: the closing ``` must stand alone on its own line.")
        if any(fence.code.rstrip().endswith("```") for fence in runnable):
            told.append("A code block ends in ``` on a line of code: the closing ``` must stand alone on its own line.")
        if len(runnable) > MAX_BLOCKS:
            told.append(f"Only the first {MAX_BLOCKS} of {len(runnable)} code blocks were run.")
        if self._open_finals:
            told.append(
                "FINAL( or FINAL_VAR( was written without a matching closing bracket or without one variable name, "
                "so it was not taken."
            )
        if any(fence.indented and fence.label in RUNNABLE for fence in other):
            told.append("An indented code fence was not run: the ``` must be the first thing on its line.")
        if not runnable and self._final is None:
            told.extend(_misses_of(other))
            if any(fence.is_runnable for fence in self._fences):
                told.append("The code block was empty.")
        return tuple(told[:MAX_NEAR_MISSES])


def _misses_of(fences: Sequence[_Fence]) -> list[str]:
    told = []
    if any(_FINAL.match(line) for fence in fences for line in fence.code.split("\n")):
        told.append("FINAL was written inside a fence that is not run; write it on a line of its own, outside fences.")
    labels = sorted({fence.label[:20] for fence in fences if not fence.indented})
    if labels:
        shown = ", ".join(f"```{label}" if label else "``` without a label" for label in labels[:4])
        told.append(f"Nothing was run: found {shown}; only fences labelled ```repl or ```python run.")
    return told


def _is_clean_closing(line: str, marker: str) -> bool:
    bare = line.strip()
    return len(bare) >= len(marker) and bare == marker[0] * len(bare)


def _open_quote_after(line: str, quote: str) -> str:
    """Which string literal is open after this line of Python, given the one open before it ('' for none)."""
    position = 0
    while True:
        if quote:
            end = _STRING_END[quote]
            found = end.search(line, position)
            while found is not None and found[0][0] == "\\":
                position = found.end()
                found = end.search(line, position)
            if found is None:
                continues = len(quote) == 3 or line.rstrip("\r\n").endswith("\\")
                return quote if continues else ""
            position, quote = found.end(), ""
        token = _CODE_TOKEN.search(line, position)
        if token is None or token[0] == "#":
            return ""
        position, quote = token.end(), token[0]


def _balanced(tokens: re.Pattern[str], text: str, start: int, end: int) -> int | None:
    depth = 1
    for token in tokens.finditer(text, start, end):
        if token[0] == "(":
            depth += 1
        elif token[0] == ")":
            depth -= 1
            if depth == 0:
                return token.start()
    return None


def _past_smileys(text: str, closing: int, end: int) -> int:
    """A bracket too many on the same line means that an earlier one was prose: `FINAL(fine :) really)`."""
    line_end = text.find("\n", closing, end)
    rest = text[closing + 1 : end if line_end < 0 else line_end]
    depth, last = 0, closing
    for token in _BRACKET.finditer(rest):
        depth += 1 if token[0] == "(" else -1
        if depth < 0:
            depth, last = 0, closing + 1 + token.start()
    return last


def _final_text(content: str) -> str:
    """The text meant: the value of a lone string literal, else the content as written."""
    stripped = content.strip()
    if stripped[:1] in ("'", '"') and _STRING_LITERAL.fullmatch(stripped + ")"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `"\d"` is a valid literal that Python grumbles about
                value = ast.literal_eval(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return stripped
        if isinstance(value, str):
            return value
    return stripped


def _has_only_newlines(text: str) -> bool:
    """Whether `splitlines` sees the same lines as Markdown does (it also splits at form feeds and others)."""
    return text.isascii() and not any(mark in text for mark in "\r\v\f\x1c\x1d\x1e")


def _split_lines(text: str) -> list[str]:
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _offsets(lines: Sequence[str]) -> list[int]:
    offsets, position = [], 0
    for line in lines:
        offsets.append(position)
        position += len(line)
    return offsets
