"""`make escape`: every backend in a process of its own, then the table, then one line of JSON."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from tests.escape import backends, service
from tests.escape.case import BackendName, Row
from tests.escape.column import Choice, run

_DEADLINE_S = 900
_SERVICE = "service"
_ROWS = TypeAdapter(list[Row])


def main() -> int:
    """0 when every row of every present backend held, none was skipped, and there were some."""
    options = _options()
    if options.column:
        return _one_column(options)
    choice = [
        "--seed",
        str(options.seed),
        *(["--short"] if options.short else []),
        *(["--only", options.only] if options.only else []),
    ]
    offered = backends.REQUIRED if options.short else backends.ALL
    wanted: list[BackendName] = [name for name in backends.ALL if name in (options.backend or offered)]
    absent = {name: reason for name in wanted if (reason := backends.why_absent(name)) is not None}
    columns = [str(name) for name in wanted if name not in absent]
    if not (options.backend or options.only or options.short):
        columns.append(_SERVICE)
    results, broken = _run_columns(columns, choice)
    if not options.only or not any(results.values()):  # an expression may name attacks of some backends only
        broken |= {name: "no attack was chosen for it" for name, rows in results.items() if not rows}
    _show(results)
    return _summary(results, absent, broken)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.escape", description="Try to get out of every sandbox.")
    parser.add_argument(
        "--short",
        action="store_true",
        help="a sample of the attacks that take a second or more; no landlock, and no rows that are tests anyway",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order and the sample")
    parser.add_argument("--backend", action="append", choices=backends.ALL, help="only this one; repeatable")
    parser.add_argument("--only", help="attacks whose name matches this expression")
    parser.add_argument("--column", choices=[*backends.ALL, _SERVICE], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _one_column(options: argparse.Namespace) -> int:
    if options.column == _SERVICE:
        rows = service.rows()
    else:
        rows = run(options.column, Choice(seed=options.seed, short=options.short, only=options.only))
    options.out.write_text(json.dumps([asdict(row) for row in rows]))
    return 0


def _run_columns(columns: Sequence[str], choice: Sequence[str]) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """The rows of each, and what is to be said of those that did not come to their end."""
    results: dict[str, list[Row]] = {}
    broken: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="rlm-escape-out-") as place:
        started = time.monotonic()
        running = {}
        for name in columns:
            words = [
                sys.executable,
                "-P",
                "-m",
                "tests.escape",
                "--column",
                name,
                "--out",
                f"{place}/{name}.json",
                *choice,
            ]
            log = Path(place, f"{name}.log").open("wb")  # noqa: SIM115 - closed when its process has ended
            running[name] = (
                subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL),
                log,
            )
        for name, (process, log) in running.items():
            try:
                process.wait(max(1.0, _DEADLINE_S - (time.monotonic() - started)))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
            log.close()
            out = Path(place, f"{name}.json")
            if out.exists():
                results[name] = _ROWS.validate_json(out.read_bytes())
            else:
                broken[name] = Path(place, f"{name}.log").read_text(errors="replace")[-4000:]
    return results, broken


def _show(results: dict[str, list[Row]]) -> None:
    """One line a case, one mark a backend; of the service's tests one line a module; below it what did not hold."""
    names = [name for name in results if name != _SERVICE]
    cases = list(dict.fromkeys(row.case for name in names for row in results[name]))
    by_name = {name: {row.case: row for row in rows} for name, rows in results.items()}
    if cases:
        print(f"{'':60} " + " ".join(f"{name:>16}" for name in names))
    for case in cases:
        found = [by_name[name].get(case) for name in names]
        print(f"{case[:60]:60} " + " ".join(f"{_mark(row):>16}" for row in found))
    modules: dict[str, Counter[str]] = {}
    for row in results.get(_SERVICE, ()):
        modules.setdefault(row.case.partition("::")[0], Counter())[_mark(row)] += 1
    for module, marks in modules.items():
        print(f"{module[:60]:60} " + ", ".join(f"{number} {mark}" for mark, number in sorted(marks.items())))
    for name, rows in results.items():
        for row in rows:
            if not row.held:
                print(f"BROKEN {name}: {row.case}")
                print(f"    found {' '.join(row.found)}; held would be {' '.join(row.expected)}")
                for harm in row.harm:
                    print(f"    harm: {harm}")


def _mark(row: Row | None) -> str:
    if row is None:
        return "–"
    return "held" if row.held else "skipped" if row.was_skipped else "BROKEN"


def _summary(results: dict[str, list[Row]], absent: dict[BackendName, str], broken: dict[str, str]) -> int:
    for name, version in backends.versions().items():
        print(f"{name:18} {version}")
    print(f"{'run as':18} {backends.user()}")
    for name, reason in absent.items():
        print(f"{name:18} absent, no rows: {reason}")
    for name, log in broken.items():
        print(f"{name:18} DID NOT COME TO ITS END\n{log}")
    counts = {
        name: {
            "passed": sum(row.held for row in rows),
            "failed": sum(not row.held and not row.was_skipped for row in rows),
            "skipped": sum(row.was_skipped for row in rows),
        }
        for name, rows in results.items()
    }
    for name, found in counts.items():
        print(f"{name:18} {found['passed']} held, {found['failed']} broken, {found['skipped']} skipped")
    missing = [name for name in backends.REQUIRED if name in absent] if os.environ.get("CI") else []
    for name in missing:
        print(f"{name:18} is absent, and CI requires it")
    for name in broken:
        counts[name] = {"passed": 0, "failed": 1, "skipped": 0}
    if not counts:
        print("no backend is here: nothing was tried")
    print(json.dumps({"escape": counts}))
    return int(bool(missing) or not counts or any(found["failed"] or found["skipped"] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
