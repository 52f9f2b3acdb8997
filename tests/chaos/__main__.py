"""`make chaos`: a campaign and a rolling restart, then the findings, then one line of JSON."""

import argparse
import json
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import anyio

from tests.chaos import mutants
from tests.chaos.audit import Findings
from tests.chaos.campaign import Campaign, Size, campaign
from tests.chaos.rolling import Rolled, rolling_restart

WHOLE = Size(runs=310, most_s=540, restarts=8)
SHORT = Size(runs=24, most_s=40, restarts=2)
_ZERO = ("lost", "paid_twice", "ledger_off_nano_usd", "leaked")


def main() -> int:
    """0 when every figure is zero."""
    options = _options()
    # So that what was started is ended, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    size = SHORT if options.short else WHOLE
    with tempfile.TemporaryDirectory(prefix="rlm-chaos-", dir=options.directory) as name:
        directory = Path(name)
        directory.chmod(0o711)
        played, findings = anyio.run(_play, directory / "campaign", options.seed, size, options.mutant)
        if options.mutant is None:
            _report_rolling(anyio.run(_roll, directory / "rolling", options.seed, size.restarts), findings)
    figures = _report(played, findings)
    if options.mutant is not None:
        return _found(options.mutant, figures, answered=findings.counts["answered"])
    return int(any(figures[name] for name in _ZERO))


async def _play(directory: Path, seed: int, size: Size, mutant: str | None) -> tuple[Campaign, Findings]:
    await anyio.Path(directory).mkdir(mode=0o711)
    if mutant is None:
        return await campaign(directory, seed=seed, size=size)
    faults = mutants.MUTANTS[mutant].faults
    return await campaign(directory, seed=seed, size=size, command=mutants.command(mutant), faults=faults)


async def _roll(directory: Path, seed: int, restarts: int) -> Rolled:
    await anyio.Path(directory).mkdir(mode=0o711)
    return await rolling_restart(directory, seed=seed, restarts=restarts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill and pause everything under load.")
    parser.add_argument("--short", action="store_true", help="what fits into two minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutant", choices=mutants.MUTANTS, help="put a defect in; 0 when it is found")
    parser.add_argument("--directory", type=Path, help="where to work; everything in it is removed again")
    return parser.parse_args()


def _report_rolling(rolled: Rolled, findings: Findings) -> None:
    failed = rolled.findings()
    print(
        f"rolling restart: {rolled.restarts} restarts, {len(rolled.seen)} runs, {rolled.requests} requests, "
        f"{len(failed)} failed"
    )
    findings.lost += [f"rolling restart: {each}" for each in failed]


def _report(played: Campaign, findings: Findings) -> dict[str, int]:
    for name, count in sorted(Counter(played.struck).items()):
        print(f"{count:5} {name}")
    for name, count in sorted(findings.counts.items()):
        print(f"{count:5} {name}")
    for sentence in findings.sentences():
        print(sentence)
    figures = {
        "runs": len(played.seen),
        "faults": len(played.struck),
        "lost": len(findings.lost),
        "paid_twice": len(findings.paid_twice),
        "ledger_off_nano_usd": sum(findings.ledger_off.values()),
        "leaked": len(findings.leaked),
    }
    print(json.dumps({"chaos": figures}))
    return figures


def _found(mutant: str, figures: dict[str, int], *, answered: int) -> int:
    """0 when a figure that it must turn is turned; a campaign in which nothing worked has found nothing."""
    named = mutants.MUTANTS[mutant].figures
    turned = [name for name in _ZERO if figures[name]]
    print(f"{mutant} turned {' and '.join(turned) or 'nothing'}", file=sys.stderr)
    return int(not answered or not any(name in named for name in turned))


if __name__ == "__main__":
    sys.exit(main())
