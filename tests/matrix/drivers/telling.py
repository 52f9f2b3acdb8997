"""What every driver shares: where the service is, how calls are told, and questions that the provider can answer."""

import json
import os
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

CALLS = (
    "plain",
    "streaming",
    "long_prompt",
    "json_schema",
    "usage",
    "error_401",
    "error_402",
    "error_404",
    "error_429",
    "error_400",
    "retry_run",
    "retry_direct",
    "responses",
    "background_resume",
    "files",
    "models",
    "count_tokens",
)
RUN = "rlm/default"
DIRECT = "direct/matrix/model"
NUMBER = "1298418"
LONG_BYTES = 10_000_000
SCHEMA = {
    "type": "object",
    "properties": {"number": {"type": "integer"}},
    "required": ["number"],
    "additionalProperties": False,
}
TIMEOUT_S = 120.0
GIVEN_UP_S = 2.0
"""After which the client of a retry gives up: the provider takes twice as long over a slow question."""
RETRIES = 8


@dataclass(frozen=True, slots=True)
class Service:
    """Where it is, and the secrets of three keys of one tenant."""

    address: str
    key: str
    spent: str
    """Of a key whose budget covers no call."""
    slow: str
    """Of a key that may send one request a minute."""


@dataclass(frozen=True, slots=True)
class NoCall:
    """The client has nothing for it."""

    why: str


Call = Callable[[], str]


def read_service() -> Service:
    """From standard input, so that no secret is in arguments or in the environment."""
    # Clients that use requests or httpx must not take loopback to a proxy of the machine.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    return Service(**json.load(sys.stdin))


def marker() -> str:
    """A word by which the provider counts the calls of one question."""
    return f"marker-{uuid.uuid4().hex}"


def question(*, slow: bool = False) -> str:
    return f"The magic number is {NUMBER}.\nWhat is the magic number? ({'slowly, ' if slow else ''}{marker()})"


def long_question() -> str:
    """Ten megabytes whose middle has the answer: nobody finds it who looks at the ends only."""
    line = "Nothing of interest stands in this line.\n"
    half = line * (LONG_BYTES // 2 // len(line) + 1)
    return f"{half}The magic number is {NUMBER}.\n{half}What is the magic number? ({marker()})"


def drive(client: str, version: str, calls: Mapping[str, Call | NoCall]) -> None:
    """Make every call and tell of each on a line. One that is missing from `calls` is a mistake of the driver."""
    assert set(calls) == set(CALLS), set(calls) ^ set(CALLS)
    for name in CALLS:
        call = calls[name]
        if isinstance(call, NoCall):
            outcome, detail = "no_call", call.why
        else:
            try:
                outcome, detail = "passed", call()
            except Exception as exc:  # a row of the table, whatever a foreign client raises
                where = traceback.extract_tb(exc.__traceback__)[1 if exc.__traceback__ else 0 :]
                line = f" (line {where[0].lineno})" if where else ""
                outcome, detail = "failed", f"{type(exc).__name__}: {exc}"[:600] + line
        row = {"client": client, "version": version, "call": name, "outcome": outcome, "detail": detail}
        print(json.dumps(row), flush=True)


def expect_once(ask: Callable[[str], str]) -> str:
    """A slow question, which the client repeats, is answered. Returns its marker, by which calls are counted."""
    slow = question(slow=True)
    said = ask(slow)
    assert NUMBER in said, said
    return slow[slow.index("marker-") : -1]
