"""Attacks from a cell, by what they are after."""

from tests.escape.case import Case
from tests.escape.cells import (
    devices,
    endings,
    files,
    host_calls,
    limits,
    memory,
    output,
    processes,
    secrets,
    sockets,
    system_calls,
)

ALL: tuple[Case, ...] = (
    *files.CASES,
    *devices.CASES,
    *sockets.CASES,
    *system_calls.CASES,
    *processes.CASES,
    *secrets.CASES,
    *host_calls.CASES,
    *memory.CASES,
    *limits.CASES,
    *endings.CASES,
    *output.CASES,
)
