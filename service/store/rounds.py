"""What goes wrong in one round of a loop that runs as long as the replica does.

Such loops renew, seal, forget and deliver, for all tenants. What one round leaves undone the next one does; so nothing
that goes wrong in one may end the loop, and with it the replica: neither a store that is away, nor a defect of ours
that one tenant's records bring to light. This is the boundary of all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from service.store.errors import StoreFailed

_log = structlog.get_logger(__name__)


@contextmanager
def tried_again(event: str, **facts: str) -> Iterator[None]:
    """Around what a later round does again. What it raises is logged as `event`, with these facts, and ends here: of a
    store that failed a line, of anything else the traceback. Cancellation passes."""
    try:
        yield
    except StoreFailed as exc:
        _log.warning(event, error=str(exc), **facts)
    except Exception:  # noqa: BLE001 -- the boundary that this module is
        _log.exception(event, **facts)
