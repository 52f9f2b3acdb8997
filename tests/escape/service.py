"""Rows that need no backend: what the service itself does with a hostile peer. They are tests of the suite `tests`, so
that they run with it too; here each is a row.

    a hostile supervisor         tests/sandboxes/test_hostile_*.py (but the client's), test_listener.py, test_stream.py
    a hostile launcher client    tests/sandboxes/test_hostile_client.py, test_launcher*.py
    at the gateway               tests/gateway
    through the API              tests/web: strangers' ids on every route, bodies and heads, floods, limits, repeated
                                 requests, paths of files, contexts in pieces, the dialects, and that nothing secret
                                 shows in logs and refusals
"""

import contextlib
import io
from pathlib import Path

import pytest

from tests.escape.case import Row

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "tests/sandboxes/test_hostile_peer.py",
    "tests/sandboxes/test_hostile_client.py",
    "tests/sandboxes/test_hostile_files.py",
    "tests/sandboxes/test_hostile_neighbour.py",
    "tests/sandboxes/test_hostile_streams.py",
    "tests/sandboxes/test_hostile_structures.py",
    "tests/sandboxes/test_listener.py",
    "tests/sandboxes/test_stream.py",
    "tests/sandboxes/test_launcher.py",
    "tests/sandboxes/test_launcher_left_behind.py",
    "tests/sandboxes/test_launcher_requests.py",
    "tests/sandboxes/test_launcher_directory.py",
    "tests/gateway",
    "tests/web/test_strangers.py",
    "tests/web/test_foreign_ids.py",
    "tests/web/test_canaries.py",
    "tests/web/test_credential_canaries.py",
    "tests/web/test_bodies.py",
    "tests/web/test_callers.py",
    "tests/web/test_connections.py",
    "tests/web/test_contexts.py",
    "tests/web/test_idempotency.py",
    "tests/web/test_limits.py",
    "tests/web/test_sessions.py",
    "tests/web/test_uploads.py",
    "tests/web/dialects",
)


class _Tally:
    """A pytest plugin that makes a row of every test."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            harm = () if report.passed else (str(report.longreprtext)[-600:],)
            self.rows[report.nodeid] = Row(
                case=report.nodeid.removeprefix("tests/"),
                held=report.passed,
                found=(report.outcome,),
                expected=("passed",),
                was_skipped=report.skipped,
                harm=harm,
            )


def rows() -> list[Row]:
    """One a test. A skipped one has not held: it is there because this machine was to show it.

    Raises `AssertionError` unless every module was there and its tests ran to their end.
    """
    tally = _Tally()
    words = [
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(ROOT),
        *(str(ROOT / module) for module in MODULES),
    ]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        code = pytest.main(words, plugins=[tally])
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), f"pytest {code!r}:\n{told.getvalue()[-3000:]}"
    assert tally.rows, "pytest ran no test"
    return list(tally.rows.values())
