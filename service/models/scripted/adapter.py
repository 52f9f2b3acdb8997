"""The scripted model's adapter: latency, failures and usage as the script says, the reply from `play`."""

from collections import OrderedDict
from collections.abc import Callable

import anyio
import anyio.lowlevel
import anyio.to_thread

from service.loop.values import CallOutcome, Message, Usage
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.models.prices import Price
from service.models.scripted.play import play
from service.models.scripted.script import Script, ScriptUnknown, parse_script

SHADOW_PRICE = Price(
    input=150_000_000,
    cached_input=75_000_000,
    cache_write=150_000_000,
    output=600_000_000,
)
"""$0.15 and $0.60 per million tokens, what a small model costs elsewhere, so that budgets can be seen to hold."""

BYTES_PER_TOKEN = 4
MOST_COUNTED_NAMES = 1024
RETRY_AFTER_S = 0.05
PLAYERS = 2
"""How many replies are thought of at once."""
SHORT_CHARS = 2000
"""A reply to less than this is thought of sooner than a thread is asked to."""
PIECE_CHARS = 64
"""Of a reply whose text is told as it comes."""


class ScriptedAdapter:
    """Deterministic: the reply depends on the request alone, a failure on how often the name was called before."""

    def __init__(self, *, concurrency: int) -> None:
        self._slots = anyio.CapacityLimiter(concurrency)
        self._players = anyio.CapacityLimiter(PLAYERS)
        self._calls: OrderedDict[str, int] = OrderedDict()
        self._closed = False

    def __repr__(self) -> str:
        return f"<ScriptedAdapter {sum(self._calls.values())} calls{' closed' if self._closed else ''}>"

    async def complete(self, request: ModelRequest) -> ModelReply:
        """See `ModelAdapter.complete`."""
        if self._closed:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the scripted model is closed", may_be_billed=False)
        try:
            script = parse_script(request.model)
        except ScriptUnknown as exc:
            raise ModelCallFailed(CallOutcome.REFUSED, str(exc), may_be_billed=False) from exc
        ordinal = self._count(request.model)
        async with self._slots:
            with anyio.move_on_after(request.timeout_s):
                await anyio.sleep(script.latency_ms / 1000)
                _fail_on_demand(script, ordinal)
                reply = await self._played(script, request)
                if request.on_text is not None:
                    await _tell(reply.text, request.on_text)
                return reply
            raise ModelCallFailed(CallOutcome.TIMED_OUT, f"no complete reply within {request.timeout_s:g} s")

    async def aclose(self) -> None:
        """See `ModelAdapter.aclose`."""
        self._closed = True

    async def _played(self, script: Script, request: ModelRequest) -> ModelReply:
        """Beside the event loop, where thinking of it may take a while. What was begun is waited for: it is bounded."""
        if request.schema is None and sum(len(message.content) for message in request.messages) < SHORT_CHARS:
            return _reply(script, request)
        return await anyio.to_thread.run_sync(_reply, script, request, limiter=self._players)

    def _count(self, model: str) -> int:
        self._calls[model] = self._calls.get(model, 0) + 1
        self._calls.move_to_end(model)
        if len(self._calls) > MOST_COUNTED_NAMES:
            self._calls.popitem(last=False)
        return self._calls[model]


async def _tell(text: str, on_text: Callable[[str], None]) -> None:
    """Piece by piece, letting others have their turn between, as if it came over a network."""
    for start in range(0, len(text), PIECE_CHARS):
        on_text(text[start : start + PIECE_CHARS])
        await anyio.lowlevel.checkpoint()


def _fail_on_demand(script: Script, ordinal: int) -> None:
    if script.fail_every == 0 or ordinal % script.fail_every != 0:
        return
    raise ModelCallFailed(
        script.fail_with,
        f"the script fails every {script.fail_every} calls, and this is call {ordinal}",
        retry_after_s=RETRY_AFTER_S if script.fail_with is CallOutcome.RATE_LIMITED else None,
        may_be_billed=script.fail_with in (CallOutcome.TIMED_OUT, CallOutcome.INVALID_REPLY),
    )


def _reply(script: Script, request: ModelRequest) -> ModelReply:
    input_tokens = count_tokens(request.messages)
    if input_tokens > script.window_tokens:
        problem = f"the prompt does not fit the model's window: {input_tokens} tokens, {script.window_tokens} fit"
        raise ModelCallFailed(CallOutcome.TOO_LONG, problem, may_be_billed=False)
    text = play(script.strategy, request.messages, request.schema)
    encoded = text.encode("utf-8", "replace")
    limit_bytes = min(request.max_output_tokens, script.max_output_tokens) * BYTES_PER_TOKEN
    finish_reason = "stop"
    if len(encoded) > limit_bytes:
        text, finish_reason = encoded[:limit_bytes].decode("utf-8", "ignore"), "length"
        encoded = encoded[:limit_bytes]
    usage = Usage(input_tokens=input_tokens, output_tokens=_tokens(len(encoded)))
    return ModelReply(text=text, usage=usage, finish_reason=finish_reason)


def count_tokens(messages: tuple[Message, ...]) -> int:
    """The scripted model's own tokenizer: four bytes of UTF-8 to a token, each message rounded up."""
    return sum(_tokens(len(message.content.encode("utf-8", "replace"))) for message in messages)


def _tokens(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)
