"""Open files: how many clients there can be with those that the process may open.

A connection that cannot be accepted for want of a file waits unseen, and a file that a run wants is not there either.
So the limit is raised as far as is needed and allowed, and where that is too little there are fewer connections.
"""

import resource
import sys

import structlog

OTHER_FILES = 2048
"""Kept for everything else: two for each sandbox, connections to the store and to providers, blobs."""

_log = structlog.get_logger(__name__)


def connections_that_fit(wanted: int) -> int:
    """How many clients may be connected at once, at most `wanted`. Raises this process's soft limit for them, never
    beyond the hard one; the log says so when that is too little."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if _number(soft) < needed:
        soft = needed if needed <= _number(hard) else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fit = most_connections(_number(soft), wanted)
    if fit < wanted:
        _log.warning("fewer_connections", wanted=wanted, served=fit, open_files=soft, needed_open_files=needed)
    return fit


def most_connections(open_files: int, wanted: int) -> int:
    """Of so many files, half at least are for connections."""
    return min(wanted, max(open_files - OTHER_FILES, open_files // 2, 1))


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
