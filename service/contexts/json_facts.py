"""What a JSON document is: its type and length, found by parsing it whole, once.

Run as a program, `python -I json_facts.py PATH`, it prints its findings as one line of JSON. A large document is
parsed in such a process, because the parser holds the interpreter's lock for as long as it works (seconds per
gigabyte), and because parsing can take many times the document's size in memory: if that is too much, it is this
process that goes, and not the service. Nothing but the standard library is imported, so that it starts quickly.
"""

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NoReturn


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonFacts:
    type_name: str
    length: int
    """`len()` of the value; 0 for a scalar."""
    unit: Literal["characters", "items", "keys"]
    problem: str = ""
    """What is wrong with the document, if anything; then the rest means nothing."""


def read_facts(path: Path) -> JsonFacts:
    """Parse the document in a file. Blocking, and it holds the interpreter's lock."""
    try:
        value = parse(path.read_bytes())
    except ValueError as error:
        return _bad(str(error))
    except MemoryError:
        return _bad("needs more memory to parse than there is; split it, or store it as JSON lines")
    length = len(value) if isinstance(value, str | list | dict) else 0
    unit: Literal["characters", "items", "keys"] = "items"
    if isinstance(value, str):
        unit = "characters"
    elif isinstance(value, dict):
        unit = "keys"
    return JsonFacts(type_name=type(value).__name__, length=length, unit=unit)


def parse(document: bytes) -> object:
    """The value of a document of strict JSON.

    Raises:
        ValueError: what is wrong with it and where.
    """
    try:
        value: object = _DECODER.decode(document.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    return value


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"holds {word}, which is not JSON; use null or a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _bad(problem: str) -> JsonFacts:
    return JsonFacts(type_name="", length=0, unit="items", problem=problem)


def _volunteer_for_the_oom_killer() -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    _volunteer_for_the_oom_killer()
    sys.stdout.write(json.dumps(asdict(read_facts(Path(sys.argv[1])))))
