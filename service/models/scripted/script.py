"""What a scripted model's name says: `STRATEGY[?option=value&…]`, all of it bounded and checked.

scripted/root                          picks a strategy from the question and from what it is shown
scripted/grep                          one strategy, whatever the question
scripted/root?latency_ms=100           every reply takes that long
scripted/sub?fail_every=7&fail_with=rate_limited
                                       the 7th, 14th … call of this name fails
scripted/root?window_tokens=8000       a small window, so that compaction happens
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache

from service.loop.values import CallOutcome

PREFIX = "scripted/"

FAILURES = frozenset(
    {
        CallOutcome.TIMED_OUT,
        CallOutcome.RATE_LIMITED,
        CallOutcome.UNAVAILABLE,
        CallOutcome.REFUSED,
        CallOutcome.TOO_LONG,
        CallOutcome.INVALID_REPLY,
    }
)
"""What a provider can do to a call; the other outcomes are the service's own."""


class Strategy(StrEnum):
    """How a root LM goes about a question. Each has its module."""

    ROOT = "root"
    """Chooses between the next five."""
    PEEK = "peek"
    GREP = "grep"
    MAP = "map"
    SUMMARISE = "summarise"
    LONG_OUTPUT = "long_output"
    RECURSION = "recursion"
    GREEDY = "greedy"
    MISTAKES = "mistakes"
    SUB = "sub"
    """No root at all: reads a prompt and answers it, whatever it is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    strategy: Strategy
    latency_ms: int = 0
    fail_every: int = 0
    """0: never."""
    fail_with: CallOutcome = CallOutcome.UNAVAILABLE
    window_tokens: int = 128_000
    max_output_tokens: int = 16_384


class ScriptUnknown(Exception):
    """The name is no script; the text says what was expected."""


_NUMBERS = {
    "latency_ms": (0, 600_000),
    "fail_every": (1, 1_000_000),
    "window_tokens": (1_000, 10_000_000),
    "max_output_tokens": (16, 1_000_000),
}


@lru_cache(maxsize=256)
def parse_script(text: str) -> Script:
    """Read `STRATEGY[?option=value&…]`.

    Raises:
        ScriptUnknown: no such strategy or option, or a value out of bounds.
    """
    name, _, query = text.partition("?")
    if name not in list(Strategy):
        near = get_close_matches(name, list(Strategy), n=1)
        hint = f" Did you mean scripted/{near[0]}?" if near else ""
        raise ScriptUnknown(f"expected scripted/ and one of {', '.join(Strategy)}; found {name!r}.{hint}")
    script = Script(strategy=Strategy(name))
    for option in query.split("&") if query else ():
        script = _with_option(script, option)
    return script


def _with_option(script: Script, option: str) -> Script:
    key, _, value = option.partition("=")
    if key == "fail_with":
        if value not in FAILURES:
            raise ScriptUnknown(f"expected fail_with to be one of {', '.join(sorted(FAILURES))}; found {value!r}")
        return replace(script, fail_with=CallOutcome(value))
    if key not in _NUMBERS:
        raise ScriptUnknown(f"expected an option of {', '.join([*_NUMBERS, 'fail_with'])}; found {key!r}")
    least, most = _NUMBERS[key]
    if not value.isascii() or not value.isdecimal() or len(value) > 9 or not least <= int(value) <= most:
        raise ScriptUnknown(f"expected {key} to be a whole number from {least} to {most}; found {value!r}")
    number = int(value)
    match key:
        case "latency_ms":
            return replace(script, latency_ms=number)
        case "fail_every":
            return replace(script, fail_every=number)
        case "window_tokens":
            return replace(script, window_tokens=number)
        case _:
            return replace(script, max_output_tokens=number)
