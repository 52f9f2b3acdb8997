"""Feed every parser for as long as it may, and show the first input that breaks one: seeds with changes, then, where
atheris is at hand, inputs that are led by what of the code they reach.

python -m tests.fuzzing [--seconds N] [--seed N] [--only PARSER]
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzzing.guided import find_atheris
from tests.fuzzing.mutations import mutated
from tests.fuzzing.targets import SEEDS, TARGETS

_START_S = 120
"""That a guided process may take beyond its time, on a busy machine."""


def main() -> int:
    """0 when nothing broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all parsers together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--only", choices=TARGETS, help="one parser")
    given = parser.parse_args()
    print(f"seed {given.seed}")
    names = [given.only] if given.only else list(TARGETS)
    is_guided = find_atheris() is not None
    share_s = given.seconds / len(names) / (2 if is_guided else 1)
    for name in names:
        tried = _change_seeds(name, random.Random(f"{given.seed} {name}"), share_s)
        print(f"{name:<16} {tried:>9} changed seeds")
    if not is_guided:
        print("not led by coverage: atheris is not here (`python deploy/fetch_apart.py fuzzer`, on x86_64)")
        return 0
    return max(_guide(name, given.seed, max(1, round(share_s))) for name in names)


def _change_seeds(name: str, dice: random.Random, seconds: float) -> int:
    """How many inputs were tried."""
    tried, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        data = mutated(dice, SEEDS[name])
        tried += 1
        try:
            TARGETS[name](data)
        except Exception:
            print(f"{name}: broken by {data!r}", file=sys.stderr)
            raise
    return tried


def _guide(name: str, seed: int, seconds: int) -> int:
    """0 when nothing broke."""
    with tempfile.TemporaryDirectory(prefix="rlm-fuzz-") as corpus:
        words = [sys.executable, "-P", "-m", "tests.fuzzing.guided", name]
        words += ["--seconds", str(seconds), "--seed", str(seed), "--corpus", corpus]
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + _START_S, check=False)
        found = list(Path(corpus).iterdir())
        broke = [file.read_bytes() for file in found if file.name.startswith("broke-")]
        if done.returncode == 0 and not broke:
            print(f"{name:<16} {len(found):>9} inputs reach code that no other does")
            return 0
        print(f"{name}: broken by {broke!r}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
