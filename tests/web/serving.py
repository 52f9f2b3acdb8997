"""The real application on a real socket, with a real store, real sandboxes and a played model, for one test."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx

from service.ids import EMBEDDED_TENANT, TenantId
from service.runs.answering.live import GRACE_S, LiveAnswers
from service.store.pairing import Pairing
from service.tenants.api_keys import ApiKeys
from service.tenants.key_plans import KeyRequest
from service.tenants.tenants import Tenants
from service.tenants.values import OPERATOR, CallerLimits, Scope
from service.web.app import create_app
from service.web.listener import Listening, serve_public
from service.web.request_places import RequestPlaces
from service.web.rooms import Drain, WebRooms
from service.web.store_probe import StoreProbe
from service.wiring.blobs import blobs_directory
from tests.runs.doubles import Answer, echo
from tests.runs.playing import ROOT, SUB, PlayedModel, Stage, Turn, repl, stage

ANSWERS = repl("answer['content'] = str(len(context))\nanswer['ready'] = True")
"""A root LM's whole run: how long the context is."""

MODELS = {"RLM_ROOT_MODEL": ROOT, "RLM_SUB_MODEL": SUB}
"""Of profiles that name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The service behind its address. `client` has a key of the tenant `default` with every scope but `admin`."""

    stage: Stage
    address: str
    rooms: WebRooms
    client: httpx.AsyncClient
    api_keys: ApiKeys
    tenants: Tenants

    @property
    def model(self) -> PlayedModel:
        return self.stage.model

    async def secret(
        self,
        *scopes: Scope,
        tenant_id: TenantId = EMBEDDED_TENANT,
        models: tuple[str, ...] | None = None,
        limits: CallerLimits | None = None,
    ) -> str:
        """A key with these scopes; all but `admin` when none is named."""
        wanted = frozenset(scopes) or frozenset(Scope) - {Scope.ADMIN}
        request = KeyRequest(name="test", scopes=wanted, models=models, limits=limits or CallerLimits())
        return (await self.api_keys.create(tenant_id, request, by=OPERATOR)).secret

    @asynccontextmanager
    async def as_other_tenant(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of another tenant, with every scope but `admin`."""
        tenant = await self.tenants.create("other", by=OPERATOR)
        async with self.client_with(await self.secret(tenant_id=tenant.id)) as client:
            yield client

    def client_with(self, secret: str | None) -> httpx.AsyncClient:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return httpx.AsyncClient(base_url=self.address, headers=headers, timeout=60, trust_env=False)

    async def stored(self, text: str = "four", client: httpx.AsyncClient | None = None) -> str:
        """The id of a context with this text."""
        reply = await (client or self.client).post("/v1/contexts", json={"text": text})
        assert reply.status_code == 201, reply.text
        context_id: str = reply.json()["context_id"]
        return context_id

    async def submission(self, **more: Any) -> dict[str, Any]:
        """The body of a run over a small context."""
        contexts = [{"context_id": await self.stored()}]
        return {"question": "How long?", "contexts": contexts, "root_model": ROOT, "sub_model": SUB} | more


@asynccontextmanager
async def served(
    directory: Path, *turns: Turn, sub: Answer = echo, settings: dict[str, str] | None = None, grace_s: float = GRACE_S
) -> AsyncIterator[Served]:
    """The service with its data in `directory`; a root LM that plays `turns`, or answers with the context's length."""
    async with (
        stage(
            directory,
            *(turns or (ANSWERS,)),
            sub=sub,
            settings=MODELS | (settings or {}),
        ) as on,
        anyio.create_task_group() as tasks,
    ):
        service = on.service
        api_keys, tenants = service.registry.api_keys, service.registry.tenants
        await tenants.ensure_default()
        rooms = WebRooms(
            tenancy=service.tenancy,
            api_keys=api_keys,
            registry=service.registry,
            webhooks=service.webhooks,
            metrics=service.metrics,
            drain=Drain(service.store.wake_listeners),
            probe=StoreProbe(
                service.store, Pairing(service.store, blobs_directory(service.settings)), service.disk, tasks
            ),
            profiles=service.profiles,
            live=LiveAnswers(tasks, grace_s=grace_s),
            places=RequestPlaces(service.settings.most_connections),
            erasure=service.erasure,
            now=time.time,
            runs_kept_s=service.settings.runs_kept_s,
        )
        listening = Listening(
            host="127.0.0.1", port=0, most_connections=service.settings.most_connections, drain_s=30.0
        )
        async with (
            serve_public(create_app(rooms), listening, before_end=rooms.drain.begin) as address,
            httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client,
        ):
            it = Served(stage=on, address=address, rooms=rooms, client=client, api_keys=api_keys, tenants=tenants)
            client.headers["authorization"] = f"Bearer {await it.secret()}"
            yield it
        tasks.cancel_scope.cancel()
