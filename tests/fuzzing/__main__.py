"""Mutate seeds for as long as it may, and show the first input that breaks a parser.

python -m tests.fuzzing [--seconds N] [--seed N]
"""

import argparse
import random
import sys
import time

from tests.fuzzing.mutations import mutated
from tests.fuzzing.targets import SEEDS, TARGETS


def main() -> int:
    """0 when nothing broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all parsers together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    dice = random.Random(given.seed)
    print(f"seed {given.seed}")
    for name, target in TARGETS.items():
        tried, until = 0, time.monotonic() + given.seconds / len(TARGETS)
        while time.monotonic() < until:
            data = mutated(dice, SEEDS[name])
            tried += 1
            try:
                target(data)
            except Exception:
                print(f"{name}: broken by {data!r}", file=sys.stderr)
                raise
        print(f"{name:<14} {tried:>9} inputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
