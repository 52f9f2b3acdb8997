"""How many input tokens a call has at most: counted once for each call, and a long text beside the event loop."""

from collections.abc import Sequence
from typing import Any

import anyio.to_thread

from service.loop.values import Message
from service.models.prices import input_token_bound

COUNTED_INLINE_CHARS = 64 << 10
"""Of text that is not ASCII (which need not be looked at): a millisecond or two."""


async def count_input_tokens(messages: Sequence[Message], schema: dict[str, Any] | None = None) -> int:
    """See `input_token_bound`."""
    looked_at = sum(len(message.content) for message in messages if not message.content.isascii())
    if looked_at <= COUNTED_INLINE_CHARS:
        return input_token_bound(messages, schema)
    return await anyio.to_thread.run_sync(input_token_bound, messages, schema)
