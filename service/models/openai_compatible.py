"""The adapter for servers that speak OpenAI's chat completions: OpenAI, vLLM, SGLang, Ollama, OpenRouter, Groq …"""

from service.models.chat_completions import CompletionReader, dialect_of, request_body
from service.models.port import ModelReply, ModelRequest
from service.models.provider_connection import IDLE_S, RESPONSE_LIMIT_BYTES, ProviderConnection


class OpenAICompatibleAdapter:
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
        self._connection = ProviderConnection(
            provider="openai",
            url=f"{base_url.rstrip('/')}/chat/completions",
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            api_key=api_key,
            concurrency=concurrency,
            idle_s=idle_s,
            response_limit_bytes=response_limit_bytes,
        )
        self._dialect = dialect_of(self._connection.host)

    def __repr__(self) -> str:
        return f"<OpenAICompatibleAdapter {self._connection!r}>"

    async def complete(self, request: ModelRequest) -> ModelReply:
        """See `ModelAdapter.complete`. Waiting for one of the provider's slots is not part of the deadline."""
        return await self._connection.call(request, request_body(request, self._dialect), CompletionReader())

    async def aclose(self) -> None:
        """See `ModelAdapter.aclose`."""
        await self._connection.aclose()
