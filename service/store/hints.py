"""Hints: "something about this topic has changed, look again", over one pub/sub connection per process.

A hint may be lost, doubled or late, so whoever waits for one reads the truth itself afterwards, and waits with a
timeout. All topics share one channel: subscribing once leaves nothing to go wrong between "subscribe" and "read",
and a message is only a key's name.
"""

from typing import Self

import anyio
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

CHANNEL = "rlm:hints"
RECONNECT_AFTER_S = 0.5

_log = structlog.get_logger(__name__)


class Hint:
    """One reader's bell for one topic. Open it *before* reading, so that no change falls in between."""

    def __init__(self, hints: "Hints", topic: str) -> None:
        self._hints = hints
        self._topic = topic
        self._rung = anyio.Event()

    def __enter__(self) -> Self:
        self._hints.waiting.setdefault(self._topic, set()).add(self)
        return self

    def __exit__(self, *_: object) -> None:
        waiting = self._hints.waiting[self._topic]
        waiting.discard(self)
        if not waiting:
            del self._hints.waiting[self._topic]

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, *, at_most_s: float) -> bool:
        """Until the topic has been hinted at since the last `wait`, or the time is over; whether it has been."""
        with anyio.move_on_after(at_most_s):
            await self._rung.wait()
        has_rung = self._rung.is_set()
        self._rung = anyio.Event()
        return has_rung


class Hints:
    """Hears the channel and rings the bells."""

    def __init__(self, listener: Redis) -> None:
        self._listener = listener
        self.waiting: dict[str, set[Hint]] = {}

    def __repr__(self) -> str:
        return f"<Hints topics={len(self.waiting)}>"

    async def run(self) -> None:
        """Listen until cancelled; a lost connection is opened again, and everyone told to look."""
        is_lost = False
        while True:
            try:
                async with self._listener.pubsub() as subscription:
                    await subscription.subscribe(CHANNEL)
                    is_lost = False
                    self.ring_all()
                    async for message in subscription.listen():
                        if message["type"] == "message":
                            self.ring(message["data"].decode("utf-8", "replace"))
            except (RedisError, OSError) as error:
                if not is_lost:
                    is_lost = True
                    _log.warning("store_hints_lost", error=type(error).__name__)
            self.ring_all()
            await anyio.sleep(RECONNECT_AFTER_S)

    def ring(self, topic: str) -> None:
        """Make those in this process who wait for the topic look again."""
        for hint in self.waiting.get(topic, ()):
            hint.ring()

    def ring_all(self) -> None:
        """Make everyone in this process look again."""
        for topic in self.waiting:
            self.ring(topic)
