"""One parser, fed by atheris: an input that reaches code which none before it reached is kept, and changed further.

python -m tests.fuzzing.guided PARSER --seconds N --seed N --corpus DIR

libFuzzer, which this stands on, never gives control back: each parser has a process of its own, whose exit status is 0
only if nothing broke. What did is left in DIR as `broke-…`. atheris stays outside the environment
(`deploy/fetch_apart.py fuzzer`).
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import FunctionType, ModuleType

from tests.fuzzing.targets import SEEDS, TARGETS
from tests.machine import ROOT

FUZZER = ROOT / ".cache" / "fuzzer"
LONGEST_INPUT = 4096
LONGEST_TRY_S = 30
_WATCHED = (
    "sandbox_image.decoding",
    "sandbox_image.files",
    "sandbox_image.frames",
    "service.gateway.app",
    "service.loop.reply",
    "service.sandboxes.dialled_stream",
    "service.sandboxes.launcher.protocol",
    "service.sandboxes.launcher.wire",
    "service.sandboxes.link",
    "service.sandboxes.listener",
    "service.sandboxes.replies",
    "service.web.byte_ranges",
    "service.web.digests",
    "service.web.dialects",
    "service.web.forms",
    "tests.fuzzing.sandbox_targets",
    "tests.fuzzing.targets",
)
"""Whose branches are counted, with all modules below them."""


def find_atheris() -> ModuleType | None:
    """None where it was not fetched, or is not made for this machine."""
    sys.path.append(str(FUZZER))
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None
    finally:
        sys.path.remove(str(FUZZER))


def _functions() -> Iterator[FunctionType]:
    """Of the modules that are watched, methods among them."""
    for name, module in sorted(sys.modules.items()):
        if not any(name == watched or name.startswith(f"{watched}.") for watched in _WATCHED):
            continue
        for each in vars(module).values():
            members = [vars(each).values()] if isinstance(each, type) and each.__module__ == name else []
            for member in (each, *chain(*members)):
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if isinstance(function, FunctionType) and function.__module__ == name:
                    yield function


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing.guided")
    parser.add_argument("parser")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    given = parser.parse_args()
    atheris = find_atheris()
    if atheris is None:
        sys.exit("atheris is not here: run `python deploy/fetch_apart.py fuzzer`")
    for function in _functions():
        atheris.instrument_func(function)
    for number, seed in enumerate(SEEDS[given.parser]):
        (given.corpus / f"seed-{number}").write_bytes(seed)
    options = {
        "max_total_time": given.seconds,
        "max_len": LONGEST_INPUT,
        "timeout": LONGEST_TRY_S,
        "seed": given.seed,
        "verbosity": 0,
        "artifact_prefix": f"{given.corpus}/broke-",
    }
    words = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *words, str(given.corpus)], TARGETS[given.parser])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
