"""The provider: answers by the plays, and keeps its own account of what it was asked and what that costs."""

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio

from service.models.port import ModelReply, ModelRequest
from service.models.prices import input_token_bound
from tests.chaos.plays import is_wrap_up, root_reply, sub_reply, tag_of
from tests.runs.doubles import usage_of

ROOT = "chaos/root"
SUB = "chaos/sub"
PRICES = {"root": (150, 600), "sub": (100, 400)}
"""Nano-USD per input and output token, by the name of the model upstream."""
CONFIGURATION = "".join(
    f'[models."chaos/{name}"]\nupstream = "{name}"\nwindow_tokens = 100000\nmax_output_tokens = 4096\n'
    f'input_usd_per_million = "{read / 1000}"\noutput_usd_per_million = "{written / 1000}"\n'
    for name, (read, written) in PRICES.items()
)
"""The models as the service is told of them; where they are, each replica's `OPENAI_BASE_URL` says."""
SLOWEST_S = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call that arrived."""

    at: float
    """Unix seconds."""
    tag: str
    model: str
    """As the service calls it."""
    identity: str
    """Equal for two calls with equal messages."""
    text: str
    """The reply. It bears the identity, so whoever has it knows which call it answers."""
    input_bound: int | None
    """The most tokens that the service counts for these messages: what a call that nobody saw the end of is booked
    with. None for the wrap-up, whose money was held before anybody knew what it would ask."""
    nano_usd: int


@dataclass(eq=False)
class Upstream:
    """One for all replicas."""

    seed: int
    asked: list[Asked] = field(default_factory=list)
    in_flight: dict[str, int] = field(default_factory=dict)
    """Sub-calls that are being answered, by replica."""
    _moved: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def until_asked(self, count: int) -> None:
        """Until that many calls have arrived in all."""
        while len(self.asked) < count:
            await self._moved.wait()

    async def until_in_flight(self) -> str:
        """A replica that waits for a sub-call; as soon as there is one."""
        while not (waiting := sorted(name for name, count in self.in_flight.items() if count)):
            await self._moved.wait()
        return self._random.choice(waiting)

    async def answer(self, request: ModelRequest, replica: str) -> ModelReply:
        said = "\0".join(f"{message.role}\0{message.content}" for message in request.messages)
        identity = hashlib.sha256(said.encode()).hexdigest()
        text = (root_reply if request.model == "root" else sub_reply)(request.messages, identity)
        usage = usage_of(request, text)
        read, written = PRICES[request.model]
        self.asked.append(
            Asked(
                at=time.time(),
                tag=tag_of(request.messages) or "",
                model=f"chaos/{request.model}",
                identity=identity,
                text=text,
                input_bound=None if is_wrap_up(request.messages) else input_token_bound(request.messages),
                nano_usd=usage.input_tokens * read + usage.output_tokens * written,
            )
        )
        with self._counted(replica if request.model == "sub" else None):
            await anyio.sleep(self._random.uniform(0.0, SLOWEST_S))
        return ModelReply(text=text, usage=usage)

    @contextmanager
    def _counted(self, replica: str | None) -> Iterator[None]:
        if replica is not None:
            self.in_flight[replica] = self.in_flight.get(replica, 0) + 1
        self._moved.set()
        self._moved = anyio.Event()
        try:
            yield
        finally:
            if replica is not None:
                self.in_flight[replica] -= 1


@dataclass(frozen=True, slots=True)
class Door:
    """A `ModelAdapter`: the provider as one replica reaches it."""

    upstream: Upstream
    replica: str

    async def complete(self, request: ModelRequest) -> ModelReply:
        return await self.upstream.answer(request, self.replica)

    async def aclose(self) -> None:
        """Nothing is open."""
