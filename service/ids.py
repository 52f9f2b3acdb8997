"""Identifiers: a readable prefix, then a UUIDv7 (RFC 9562 §5.7), so that ids sort by birth.

Ids are opaque to callers. Within a run, cells and calls get ids *derived* from where they stand
(`cell_id`, `call_id`), never random ones: a retried or replayed step finds its own earlier record.
"""

import os
import re
import time
from typing import Literal, NewType

RunId = NewType("RunId", str)
SessionId = NewType("SessionId", str)
ContextId = NewType("ContextId", str)
SandboxId = NewType("SandboxId", str)
TenantId = NewType("TenantId", str)
UploadId = NewType("UploadId", str)
CellId = NewType("CellId", str)
CallId = NewType("CallId", str)
KeyId = NewType("KeyId", str)
"""Of an API key: public, part of what its holder shows; never the secret."""

WebhookId = NewType("WebhookId", str)
DeliveryId = NewType("DeliveryId", str)

Prefix = Literal["ctx", "ses", "run", "sbx", "ten", "key", "upl", "rep", "whk", "dlv"]

EMBEDDED_TENANT = TenantId("default")
"""The tenant that is there from the first start, and that the command line asks for."""

_ID = re.compile(r"^(ctx|ses|run|sbx|ten|key|upl|rep|whk|dlv)_[0-9a-f]{32}$")


def new_id(prefix: Prefix) -> str:
    """A fresh id such as `run_0198…` (prefix, underscore, 32 hex digits of a UUIDv7)."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | random_bits
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{prefix}_{value:032x}"


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether `text` has the shape of an id with this prefix. It says nothing about existence."""
    return _ID.match(text) is not None and text.startswith(f"{prefix}_")


def born_at(identifier: str) -> float | None:
    """When an id was made, in Unix seconds; None for one that `new_id` cannot have made."""
    value = int(identifier[-32:], 16)
    return (value >> 80) / 1000 if value >> 76 & 0xF == 7 else None


def own_session_of(run: RunId) -> SessionId:
    """The id of the session that is a run's alone: whoever begins the run a second time finds the one it had made."""
    return SessionId(f"ses_{run.removeprefix('run_')}")


def cell_id(run: RunId, turn: int, block: int) -> CellId:
    """The id of the `block`-th code block (from 0) of a run's `turn` (from 1)."""
    return CellId(f"{run}.t{turn}.b{block}")


def turn_of(cell: CellId, run: RunId) -> int | None:
    """The turn that the cell is of; None for a cell that is none of the run's code blocks."""
    turn, _, block = cell.removeprefix(f"{run}.t").partition(".b")
    return int(turn) if turn.isdecimal() and block.isdecimal() else None
