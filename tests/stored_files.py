"""Files that become contexts."""

from pathlib import Path

from service.contexts.detection import kind_of
from service.contexts.redis_contexts import Contexts
from service.contexts.values import Context


async def put_path(contexts: Contexts, path: Path, name: str | None = None) -> Context:
    """Keep a file as the kind its name says it is."""
    return await contexts.put(name or path.name, kind_of(path), path)
