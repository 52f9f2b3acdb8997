"""Whose owner is dead, by the session directories that they left."""

import os
from pathlib import Path

from service.ids import is_id
from service.sandboxes.directory import is_disowned, orphaned


def orphans_among(sessions: Path, sandbox_ids: list[str], client_uid: int) -> frozenset[str]:
    """Of these sandboxes. Blocks on the file system."""
    found: set[str] = set()
    for sandbox_id in sandbox_ids:
        session = sessions / sandbox_id
        if not is_id(sandbox_id, "sbx") or not os.path.lexists(session):
            found.add(sandbox_id)  # a label that is no id of ours, which anybody may write, names no file either
            continue
        if is_disowned(session):
            found.add(sandbox_id)
            continue
        with orphaned(session, owner_uid=client_uid) as is_orphan:
            if is_orphan:
                found.add(sandbox_id)
    return frozenset(found)
