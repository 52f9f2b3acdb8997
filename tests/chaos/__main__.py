"""`make chaos`: campaigns and a rolling restart, then the findings, then one line of JSON."""

import argparse
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio

from tests.chaos import mutants
from tests.chaos.audit import Findings
from tests.chaos.campaign import Size, campaign
from tests.chaos.cluster import Sandboxes
from tests.chaos.rolling import Rolled, rolling_restart
from tests.machine import why_no_docker
from tests.sandboxes.docker_machine import build_image

WHOLE = Size(runs=310, most_s=900, restarts=8)
WHOLE_IN_CONTAINERS = Size(runs=80, most_s=300)
SHORT = Size(runs=24, most_s=40, restarts=2)
MUTANT = Size(runs=12, most_s=30, patience_s=45)
_ZERO = ("lost", "paid_twice", "ledger_off_nano_usd", "leaked")


@dataclass(eq=False)
class Played:
    """All campaigns together."""

    findings: Findings = field(default_factory=Findings)
    runs: int = 0
    struck: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, int]:
        return {
            "runs": self.runs,
            "faults": self.struck.total(),
            "lost": len(self.findings.lost),
            "paid_twice": len(self.findings.paid_twice),
            "ledger_off_nano_usd": sum(self.findings.ledger_off.values()),
            "leaked": len(self.findings.leaked),
        }

    def turned(self) -> list[str]:
        """The figures that are not zero."""
        figures = self.figures()
        return [name for name in _ZERO if figures[name]]


def main() -> int:
    """0 when every figure is zero, or every mutant that was asked for is found."""
    options = _options()
    # So that what was started is ended, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="rlm-chaos-", dir=options.directory) as name:
        directory = Path(name)
        directory.chmod(0o711)
        if options.mutant:
            return _find(options.mutant, directory, options.seed)
        return _try_all(directory, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill and pause everything under load.")
    parser.add_argument("--short", action="store_true", help="what fits into two minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sandbox",
        action="append",
        choices=("process", "docker"),
        help="what sandboxes are; repeatable (default: process, and in the whole form docker too)",
    )
    parser.add_argument(
        "--mutant", action="append", choices=mutants.MUTANTS, help="put a defect in; 0 when it is found; repeatable"
    )
    parser.add_argument(
        "--mutants", dest="mutant", action="store_const", const=list(mutants.MUTANTS), help="try every defect, and none"
    )
    parser.add_argument("--directory", type=Path, help="where to work; everything in it is removed again")
    return parser.parse_args()


def _try_all(directory: Path, options: argparse.Namespace) -> int:
    played = Played()
    restarts = (SHORT if options.short else WHOLE).restarts
    for sandbox in _sandboxes(options):
        size = SHORT if options.short else {"process": WHOLE, "docker": WHOLE_IN_CONTAINERS}[sandbox]
        _play(played, directory / sandbox, options.seed, size, sandbox=sandbox)
    _report_rolling(_rolled(directory / "rolling", options.seed, restarts), played.findings)
    _report(played)
    print(json.dumps({"chaos": played.figures()}))
    return int(bool(played.turned()))


def _sandboxes(options: argparse.Namespace) -> Sequence[Sandboxes]:
    """Raises `SystemExit` where containers were asked for by name and there is no engine."""
    wanted: list[Sandboxes] = options.sandbox or (["process"] if options.short else ["process", "docker"])
    if "docker" in wanted:
        reason = why_no_docker()
        if reason is not None and options.sandbox:
            raise SystemExit(reason)
        if reason is not None:
            print(f"NOT PLAYED with Docker sandboxes: {reason}", file=sys.stderr)
            return ["process"]
        build_image()
    return wanted


def _play(
    played: Played, directory: Path, seed: int, size: Size, *, sandbox: Sandboxes = "process", mutant: str | None = None
) -> None:
    """One campaign."""
    directory.mkdir(mode=0o711)
    play = partial(campaign, directory, seed=seed, size=size, sandboxes=sandbox)
    if mutant is not None:
        play = partial(play, command=mutants.command(mutant), faults=mutants.MUTANTS[mutant].faults)
    print(f"campaign with {sandbox} sandboxes", file=sys.stderr)
    one, findings = anyio.run(play)
    played.runs += len(one.seen)
    played.struck += Counter(strike.name for strike in one.struck)
    played.findings.add(findings)


def _rolled(directory: Path, seed: int, restarts: int) -> Rolled:
    directory.mkdir(mode=0o711)
    return anyio.run(partial(rolling_restart, directory, seed=seed, restarts=restarts))


def _report_rolling(rolled: Rolled, findings: Findings) -> None:
    failed = rolled.findings()
    print(
        f"rolling restart: {rolled.restarts} restarts, {len(rolled.seen)} runs, {rolled.requests} requests, "
        f"{len(failed)} failed"
    )
    findings.lost += [f"rolling restart: {each}" for each in failed]


def _report(played: Played) -> None:
    for name, count in sorted(played.struck.items()):
        print(f"{count:5} {name}")
    for name, count in sorted(played.findings.counts.items()):
        print(f"{count:5} {name}")
    for sentence in played.findings.sentences():
        print(sentence)


def _find(names: Sequence[str], directory: Path, seed: int) -> int:
    """0 when each defect turned a figure that it must turn, and none turned none; a campaign in which nothing worked
    has found nothing."""
    turned: dict[str, list[str]] = {}
    missed: list[str] = []
    for name in names:
        print(f"mutant {name}", file=sys.stderr)
        played = Played()
        _play(played, directory / name, seed, MUTANT, mutant=name)
        _report(played)
        turned[name] = played.turned()
        is_found = not turned[name] if name == mutants.NONE else set(turned[name]) & set(mutants.MUTANTS[name].figures)
        if not (is_found and played.findings.counts["answered"]):
            missed.append(name)
    print(json.dumps({"mutants": {"turned": turned, "missed": missed}}))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
