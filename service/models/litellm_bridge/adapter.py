"""The adapter for every provider that is not spoken to natively: through LiteLLM, in a process of its own."""

from datetime import UTC, datetime

import anyio

from service.loop.values import CallOutcome
from service.models.chat_completions import CompletionReader
from service.models.json_values import Malformed
from service.models.litellm_bridge.failures import classify_litellm, is_unsent
from service.models.litellm_bridge.process import LiteLLMProcess
from service.models.port import ModelCallFailed, ModelReply, ModelRequest


class LiteLLMAdapter:
    """One provider: one key, one base URL if it is not the provider's own. The process belongs to the catalog."""

    def __init__(
        self, process: LiteLLMProcess, *, provider: str, api_key: str | None, base_url: str | None, concurrency: int
    ) -> None:
        self._process = process
        self._provider = provider
        self._api_key = api_key
        self._base_url = base_url
        self._concurrency = concurrency
        self._slots = anyio.CapacityLimiter(concurrency)
        self._closed = False

    def __repr__(self) -> str:
        busy = f"{self._slots.borrowed_tokens}/{self._concurrency} calls"
        return f"<LiteLLMAdapter {self._provider} {busy}{' closed' if self._closed else ''}>"

    async def complete(self, request: ModelRequest) -> ModelReply:
        """See `ModelAdapter.complete`. Neither waiting for a slot nor starting the process is part of the deadline."""
        if self._closed:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the adapter is closed", may_be_billed=False)
        async with self._slots:
            frame = await self._process.call(
                {
                    "model": f"{self._provider}/{request.model}",
                    "messages": [
                        {"role": message.role, "content": message.content.encode("utf-8", "replace").decode()}
                        for message in request.messages
                    ],
                    "max_tokens": request.max_output_tokens,
                    "schema": request.schema,
                    "api_key": self._api_key,
                    "api_base": self._base_url,
                    "timeout_s": request.timeout_s,
                }
            )
        error = frame.get("error")
        if isinstance(error, dict):
            if error.get("kind") == "Deadline":
                problem = f"no complete reply within {request.timeout_s:g} s"
                raise ModelCallFailed(CallOutcome.TIMED_OUT, problem, may_be_billed=not is_unsent(error))
            secrets = (self._api_key,) if self._api_key else ()
            raise classify_litellm(error, provider=self._provider, now=datetime.now(UTC), secrets=secrets)
        reader = CompletionReader()
        try:
            reader.add_whole(frame.get("document"))
        except Malformed as exc:
            raise ModelCallFailed(CallOutcome.INVALID_REPLY, str(exc)) from exc
        return reader.reply()

    async def aclose(self) -> None:
        """See `ModelAdapter.aclose`."""
        self._closed = True
