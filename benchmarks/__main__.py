"""The command line of the benchmarks. stdout carries the rows, one JSON object a line, and then the table; what is
absent, what failed and what is going on is said on stderr."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio
import structlog

from benchmarks.catalogue import BENCHMARKS, NAMES
from benchmarks.environments import CACHE
from benchmarks.measuring import Measuring


def main() -> int:
    options = _arguments(sys.argv[1:])
    # The service logs to stdout unless told otherwise, and stdout is for rows.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("error"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=CACHE))
    measuring = Measuring(tuple(options.only), is_quick=options.quick, scratch=scratch)
    try:
        return anyio.run(partial(measuring.run))
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    listed = "\n".join(f"  {benchmark.name:38}{benchmark.what}" for benchmark in BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this service beside the reference library and beside what the machine can do.",
        epilog=f"benchmarks:\n{listed}\n\ndocs/performance.md explains them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", default=[], choices=NAMES, metavar="NAME", help="these, and no others")
    parser.add_argument("--quick", action="store_true", help="few rounds and short windows: does everything work?")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
