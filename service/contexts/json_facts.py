"""What a JSON document is: its type and length, found by parsing it whole, once.

Run as a program, `python -I -m service.contexts.json_facts PATH LARGEST`, it prints its findings as one line of JSON;
of a list of nothing but long strings its image follows, if that has at most LARGEST bytes (`text_lists`). A large
document is parsed in such a process, because the parser holds the interpreter's lock for as long as it works (seconds
per gigabyte), and because parsing can take many times the document's size in memory: if that is too much, it is this
process that goes, and not the service. Nothing but the standard library is imported, so that it starts quickly.
"""

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

from service.contexts.text_lists import is_list_of_long_texts, plan_list


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonFacts:
    type_name: str
    length: int
    """`len()` of the value; 0 for a scalar."""
    unit: Literal["characters", "items", "keys"]
    image_bytes: int = 0
    """Of the image that follows; 0 for none."""
    problem: str = ""
    """What is wrong with the document, if anything; then the rest means nothing."""


def read_facts(path: Path) -> JsonFacts:
    """Parse the document in a file. Blocking, and it holds the interpreter's lock."""
    facts, _ = _read(path)
    return facts


def _read(path: Path) -> tuple[JsonFacts, object]:
    try:
        value = parse(path.read_bytes())
    except ValueError as error:
        return _bad(str(error)), None
    except MemoryError:
        return _bad("needs more memory to parse than there is; split it, or store it as JSON lines"), None
    length = len(value) if isinstance(value, str | list | dict) else 0
    unit: Literal["characters", "items", "keys"] = "items"
    if isinstance(value, str):
        unit = "characters"
    elif isinstance(value, dict):
        unit = "keys"
    return JsonFacts(type_name=type(value).__name__, length=length, unit=unit), value


def _report(path: Path, largest_image_bytes: int, file: BinaryIO) -> None:
    facts, value = _read(path)
    planned = plan_list(value) if is_list_of_long_texts(value) else None
    if planned is None or planned.size_bytes > largest_image_bytes:
        file.write(_as_line(facts))
    else:
        file.write(_as_line(replace(facts, image_bytes=planned.size_bytes)))
        planned.write(file)
    file.flush()


def _as_line(facts: JsonFacts) -> bytes:
    return json.dumps(asdict(facts)).encode() + b"\n"


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
    _report(Path(sys.argv[1]), int(sys.argv[2]), sys.stdout.buffer)
