"""What a driver tells of a call, and the table of all of it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from tests.matrix.drivers.telling import CALLS

Outcome = Literal["passed", "failed", "no_call"]
_SIGNS: dict[Outcome, str] = {"passed": "ok", "failed": "FAILED", "no_call": "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One call of one client."""

    client: str
    """The environment it ran in, such as `openai-2`."""
    version: str
    call: str
    outcome: Outcome
    detail: str
    """What was seen, what went wrong, or why the client has no such call."""

    def line(self) -> str:
        return f"{self.client:17} {self.version:9} {self.call:18} {_SIGNS[self.outcome]:7} {self.detail}"


def read_row(client: str, line: str) -> Row:
    """A driver's line. Raises `ValueError` if it is none."""
    told = json.loads(line)
    if told["outcome"] not in get_args(Outcome):
        raise ValueError(f"{client} tells of an outcome {told['outcome']!r}")
    return Row(
        client=client,
        version=told["version"],
        call=told["call"],
        outcome=cast("Outcome", told["outcome"]),
        detail=told["detail"],
    )


def table(rows: Sequence[Row]) -> str:
    """A line per call, a column per client, and a last line of JSON."""
    clients = list(dict.fromkeys(row.client for row in rows))
    signs = {(row.client, row.call): _SIGNS[row.outcome] for row in rows}
    calls = [*CALLS, *dict.fromkeys(row.call for row in rows if row.call not in CALLS)]
    lines = [" ".join([f"{'':18}", *(f"{client:16}" for client in clients)])]
    for call in calls:
        lines.append(" ".join([f"{call:18}", *(f"{signs.get((client, call), 'ABSENT'):16}" for client in clients)]))
    counts = {client: Counter(row.outcome for row in rows if row.client == client) for client in clients}
    versions = {row.client: row.version for row in rows}
    told = {
        client: {"version": versions[client]} | {outcome: counts[client][outcome] for outcome in get_args(Outcome)}
        for client in clients
    }
    return "\n".join(["", *lines, "", json.dumps({"matrix": told})])


def missing(client: str, rows: Sequence[Row]) -> list[Row]:
    """A failed row for each call that its driver did not tell of."""
    told = {row.call for row in rows}
    version = rows[0].version if rows else "?"
    return [
        Row(client=client, version=version, call=call, outcome="failed", detail="the driver ended before it")
        for call in CALLS
        if call not in told
    ]
