"""Pages of long lists: an opaque cursor says where the next one begins."""

import base64
import binascii

from service.errors import BadRequest
from service.ids import Prefix, is_id

_VERSION = "1:"


def cursor_after(last_id: str) -> str:
    """The cursor of the page that begins behind this id."""
    return base64.urlsafe_b64encode(f"{_VERSION}{last_id}".encode()).decode().rstrip("=")


def id_behind(cursor: str, prefix: Prefix, *, also: str | None = None) -> str:
    """The id that a cursor stands behind: one with this prefix, or the one of another form that there is also.

    Raises:
        BadRequest: it is none of ours, or of another list.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise _unusable() from None
    last_id = text.removeprefix(_VERSION)
    if not text.startswith(_VERSION) or not (is_id(last_id, prefix) or last_id == also):
        raise _unusable()
    return last_id


def _unusable() -> BadRequest:
    return BadRequest(
        "this cursor cannot be used: take `next_cursor` of the page before, as it is", data={"param": "cursor"}
    )
