"""Models called with a tenant's own key: which key goes where, and that clients are bounded and closed."""

from dataclasses import dataclass, field, replace

import anyio
import anyio.lowlevel
import pytest

from service.loop.values import CallOutcome
from service.models.catalog import Catalog
from service.models.entries import ModelEntry
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.models.prices import Price
from service.models.providers import Access
from service.models.tenant_clients import TenantClients
from tests.models.contract import request
from tests.models.protocol_server import serving

FREE = Price(input=0, cached_input=0, cache_write=0, output=0)

pytestmark = pytest.mark.anyio


@dataclass
class Client:
    """A model that answers when it is told to."""

    place: str
    answers: anyio.Event = field(default_factory=anyio.Event)
    begun: anyio.Event = field(default_factory=anyio.Event)
    is_closed: bool = False

    async def complete(self, request: ModelRequest) -> ModelReply:
        assert not self.is_closed
        self.begun.set()
        await self.answers.wait()
        return ModelReply(text=self.place, usage=None)

    async def aclose(self) -> None:
        self.is_closed = True


class Opened:
    """Every client that was ever opened."""

    def __init__(self) -> None:
        self.clients: list[Client] = []

    def __call__(self, place: str) -> Client:
        self.clients.append(Client(place))
        return self.clients[-1]


async def test_clients_are_bounded_and_idle_ones_make_way() -> None:
    """However many keys are used one after another, never more clients are open than may be; the others are closed."""
    opened = Opened()
    clients: TenantClients[str] = TenantClients(opened, most=2)
    for number in range(5):
        adapter = clients.adapter(f"key {number}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(adapter.complete, request())
            with anyio.fail_after(30):
                while len(opened.clients) <= number:
                    await anyio.lowlevel.checkpoint()
            opened.clients[number].answers.set()
    assert [client.is_closed for client in opened.clients] == [True, True, True, False, False]
    await clients.aclose()
    assert all(client.is_closed for client in opened.clients)


async def test_a_client_in_use_is_not_closed_and_others_wait_for_it() -> None:
    """Where all clients are in use, a call waits until one of them is done, and only then takes its place."""
    opened = Opened()
    clients: TenantClients[str] = TenantClients(opened, most=1)
    replies: list[str] = []

    async def call(place: str) -> None:
        replies.append((await clients.adapter(place).complete(request())).text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, "first")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(call, "second")
        await anyio.wait_all_tasks_blocked()
        assert [client.place for client in opened.clients] == ["first"]
        opened.clients[0].answers.set()
        with anyio.fail_after(30):
            while len(opened.clients) < 2:
                await anyio.lowlevel.checkpoint()
        opened.clients[1].answers.set()
    assert replies == ["first", "second"]
    assert [client.is_closed for client in opened.clients] == [True, False]


async def test_who_waits_in_vain_has_asked_nobody() -> None:
    """A call that gets no client in its time says so as a rate limit, which no breaker hears of, and costs nothing."""
    opened = Opened()
    clients: TenantClients[str] = TenantClients(opened, most=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clients.adapter("first").complete, request())
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ModelCallFailed) as failed:
            await clients.adapter("second").complete(replace(request(), timeout_s=0))
        assert (failed.value.outcome, failed.value.may_be_billed) == (CallOutcome.RATE_LIMITED, False)
        opened.clients[0].answers.set()


async def test_each_tenant_calls_with_its_own_key() -> None:
    """A tenant's key goes where the operator's would, over connections of its own; others use the operator's."""
    async with serving() as server:
        access = Access(
            openai_base_url=server.base_url, openai_api_key="sk-operator", anthropic_base_url=server.base_url
        )
        async with Catalog(access=access, entries={}, entries_path=None, concurrency=4) as models:
            for keys in ({"openai": "sk-one"}, {"openai": "sk-two"}, {"anthropic": "sk-other"}):
                await models.resolve("gpt-4o-mini", keys).adapter.complete(request())
    sent = [(each.headers["authorization"], each.peer_port) for each in server.calls]
    assert [key for key, _ in sent] == ["Bearer sk-one", "Bearer sk-two", "Bearer sk-operator"]
    assert len({port for _, port in sent}) == 3


async def test_a_tenants_key_goes_to_no_other_server() -> None:
    """The operator's own server of an entry never gets a tenant's key."""
    async with serving() as server:
        access = Access(openai_base_url="https://api.openai.com/v1", anthropic_base_url="https://api.anthropic.com")
        entries = {"local/m": ModelEntry(base_url=server.base_url, upstream="sub", window_tokens=1000, price=FREE)}
        async with Catalog(access=access, entries=entries, entries_path=None, concurrency=4) as models:
            await models.resolve("local/m", {"openai": "sk-one"}).adapter.complete(request())
    assert all("authorization" not in each.headers for each in server.calls)
    assert len(server.calls) == 1
