"""Ends what a dead replica left behind: sandboxes that still run, and their session directories.

Every session directory has an owner file that its replica keeps locked; the operating system lets go of the lock when
the replica dies, however it dies. So nothing has to be guessed from ages or heartbeats.
"""

from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from service.sandboxes.directory import orphaned, remove_session, sessions_in
from service.sandboxes.port import Provider

REAP_INTERVAL_S = 60.0

_log = structlog.get_logger(__name__)


async def reap_orphans(provider: Provider, sessions: Path) -> int:
    """Reap every orphan under `sessions`; how many were. Idempotent, and safe beside other replicas. One that the
    file system fails is logged, and left for the next time."""
    reaped = 0
    for session in await anyio.to_thread.run_sync(sessions_in, sessions):
        try:
            reaped += await _reap_orphan(provider, session)
        except OSError as exc:
            _log.warning("sandbox_reaping_failed", sandbox_id=session.name, error=str(exc))
    return reaped


async def _reap_orphan(provider: Provider, session: Path) -> bool:
    with orphaned(session) as is_orphan:
        if is_orphan:
            await provider.reap(session)
            await anyio.to_thread.run_sync(remove_session, session)
            _log.info("sandbox_orphan_reaped", sandbox_id=session.name)
        return is_orphan


async def keep_reaping(provider: Provider, sessions: Path, *, interval_s: float = REAP_INTERVAL_S) -> None:
    """At once and then at the interval, until cancelled. A file system that fails is tried again."""
    while True:
        try:
            await reap_orphans(provider, sessions)
        except OSError as exc:
            _log.warning("sandbox_reaping_failed", error=str(exc))
        await anyio.sleep(interval_s)
