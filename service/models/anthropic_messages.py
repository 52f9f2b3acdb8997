"""The adapter for servers that speak Anthropic's messages protocol."""

from service.models.messages_protocol import MessageReader, request_body
from service.models.port import ModelReply, ModelRequest
from service.models.provider_connection import IDLE_S, RESPONSE_LIMIT_BYTES, ProviderConnection

API_VERSION = "2023-06-01"
"""The only version there is since then: changes are additive, or opted into."""


class AnthropicAdapter:
    """One provider: one base URL, one key, one connection pool."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None,
        concurrency: int,
        idle_s: float = IDLE_S,
        response_limit_bytes: int = RESPONSE_LIMIT_BYTES,
    ) -> None:
        """`base_url` with or without `/v1`: the vendor's own clients want it without, all others with it."""
        headers = {"anthropic-version": API_VERSION}
        if api_key is not None:
            headers["x-api-key"] = api_key
        self._connection = ProviderConnection(
            provider="anthropic",
            url=f"{base_url.rstrip('/').removesuffix('/v1')}/v1/messages",
            headers=headers,
            api_key=api_key,
            concurrency=concurrency,
            idle_s=idle_s,
            response_limit_bytes=response_limit_bytes,
        )

    def __repr__(self) -> str:
        return f"<AnthropicAdapter {self._connection!r}>"

    async def complete(self, request: ModelRequest) -> ModelReply:
        """See `ModelAdapter.complete`. Waiting for one of the provider's slots is not part of the deadline."""
        return await self._connection.call(request, request_body(request), MessageReader())

    async def aclose(self) -> None:
        """See `ModelAdapter.aclose`."""
        await self._connection.aclose()
