"""What every test may rely on: markers `needs_…` name a component of the machine.

Where the component is missing, a test that needs it is skipped and named in a section of its own at the end, so
that nobody mistakes a small run for a whole one. Under `CI=1` a missing component is a failure.
"""

import os
import signal
from collections.abc import Callable

import hypothesis
import pytest

from tests import machine

COMPONENTS: dict[str, Callable[[], str | None]] = {
    "needs_bwrap": machine.why_no_bubblewrap,
    "needs_compose": machine.why_no_compose,
    "needs_docker": machine.why_no_docker,
    "needs_gvisor": machine.why_no_gvisor,
    "needs_landlock": machine.why_no_landlock,
    "needs_mapped_texts": machine.why_no_mapped_texts,
    "needs_mounts": machine.why_no_mounts,
    "needs_ps": machine.why_no_ps,
    "needs_readable_python": machine.why_no_readable_python,
    "needs_root": machine.why_not_root,
    "needs_tiny_model": machine.why_no_tiny_model,
}
"""Marker → why the component is missing, or None."""


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored, `nohup` with SIGHUP, and both are inherited by what the tests
    # start: programs that respect it would not hear the signals that the tests send them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # How long an example takes says how busy the machine is, and nothing of ours.
    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """For the whole session, so that a module may share what is opened on its event loop."""
    return "asyncio"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, why_missing in COMPONENTS.items():
        if item.get_closest_marker(marker) is None:
            continue
        reason = why_missing()
        if reason is None:
            continue
        if os.environ.get("CI"):
            pytest.fail(f"{marker}: {reason} (under CI a missing component is a failure)", pytrace=False)
        pytest.skip(f"{marker}: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # From the reports, which also arrive from the processes that tests are spread over.
    missing: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        if reason.partition(":")[0] in COMPONENTS:
            missing.setdefault(reason, []).append(report.nodeid)
    if not missing:
        return
    terminalreporter.section("NOT RUN", sep="=", yellow=True, bold=True)
    for reason, tests in missing.items():
        terminalreporter.line(f"NOT RUN: {len(tests)} × {reason}")
        for test in tests:
            terminalreporter.line(f"    {test}")
