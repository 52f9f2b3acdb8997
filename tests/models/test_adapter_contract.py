"""Every adapter passes the contract; LiteLLM's does in `test_litellm`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.models.anthropic_messages import AnthropicAdapter
from service.models.openai_compatible import OpenAICompatibleAdapter
from service.models.port import ModelAdapter
from service.models.scripted.adapter import ScriptedAdapter
from tests.models.contract import AdapterContract
from tests.models.modes import Mode
from tests.models.protocol_server import serving


class TestScripted(AdapterContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ModelAdapter]:
        adapter = ScriptedAdapter(concurrency=2)
        yield adapter
        await adapter.aclose()


class TestOpenAICompatible(AdapterContract):
    mode = Mode.STREAM

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ModelAdapter]:
        async with serving(mode=self.mode) as server:
            adapter = OpenAICompatibleAdapter(base_url=server.base_url, api_key="sk-test", concurrency=2)
            try:
                yield adapter
            finally:
                await adapter.aclose()


class TestOpenAICompatibleWithoutStreaming(TestOpenAICompatible):
    """A server that ignores `stream` and answers in one piece is as good."""

    mode = Mode.WHOLE
    sees_text_coming = False


class TestAnthropic(AdapterContract):
    mode = Mode.STREAM

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ModelAdapter]:
        async with serving(mode=self.mode) as server:
            adapter = AnthropicAdapter(base_url=server.base_url, api_key="sk-ant-test", concurrency=2)
            try:
                yield adapter
            finally:
                await adapter.aclose()


class TestAnthropicWithoutStreaming(TestAnthropic):
    """A server that ignores `stream` and answers in one piece is as good."""

    mode = Mode.WHOLE
    sees_text_coming = False
