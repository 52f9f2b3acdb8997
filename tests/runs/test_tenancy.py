"""Tenants on one replica: each with rooms of its own, all in the same sandboxes."""

from pathlib import Path

import pytest

from service.errors import BadRequest, NotFound
from service.ids import EMBEDDED_TENANT, TenantId
from service.loop.values import ContextBinding, Limits
from service.runs.values import RunRequest
from service.tenants.values import OPERATOR
from tests.runs.playing import ROOT, SUB, repl, stage
from tests.stored_files import put_path

pytestmark = pytest.mark.anyio

OTHER = TenantId("other")


async def test_what_one_tenant_keeps_does_not_exist_for_another(tmp_path: Path) -> None:
    """A context, a run and a session of one tenant are not found by another's rooms, and not listed there."""
    async with stage(tmp_path, repl("answer['content'] = len(context)\nanswer['ready'] = True")) as on:
        played = await on.play(await on.request("four"))
        runs, other = on.service.tenancy.runs_of(EMBEDDED_TENANT), on.service.tenancy.runs_of(OTHER)
        view = await runs.show(played.run_id)
        assert await other.ls(10) == []
        assert await other.rooms.contexts.list() == []
        for look in (
            other.show(played.run_id),
            other.cancel(played.run_id),
            other.rooms.session.records.get(view.session_id),
        ):
            with pytest.raises(NotFound):
                await look
        request = await on.request("four")
        with pytest.raises(NotFound):
            await other.submit(request)


async def test_an_idle_session_of_one_tenant_makes_way_for_the_run_of_another(tmp_path: Path) -> None:
    """With as many slots as one run needs, a session kept by one tenant gives its sandbox up to another's run."""
    turn = repl("answer['content'] = len(context)\nanswer['ready'] = True")
    settings = {"RLM_SANDBOX_SLOTS": "1", "RLM_WARM_SANDBOXES": "0"}
    async with stage(tmp_path, turn, settings=settings) as on:
        limits = Limits(depth=0)
        session_id = await on.service.runs.open_session()
        await on.play(await on.request("four", limits, session_id))
        other = on.service.tenancy.runs_of((await on.service.registry.tenants.create("other", by=OPERATOR)).id)
        path = tmp_path / "theirs.txt"
        path.write_text("eleven")
        stored = await put_path(other.rooms.contexts, path)
        run_id = await other.submit(
            RunRequest(
                question="What is it?",
                contexts=(ContextBinding(context_id=stored.context_id),),
                root_model=ROOT,
                sub_model=SUB,
                limits=limits,
            )
        )
        other.start(run_id)
        async for _ in other.follow(run_id):
            pass
        assert b"".join([chunk async for chunk in other.answer_chunks(run_id)]) == b"6"


async def test_a_tenants_runs_call_with_the_key_that_it_left(tmp_path: Path) -> None:
    """Root calls and sub-calls of a tenant that left a key for the provider carry that key; its blobs are its own."""
    turn = repl("answer['content'] = llm_query('x')\nanswer['ready'] = True")
    async with stage(tmp_path, turn) as on:
        keys = on.service.registry.provider_keys_of(EMBEDDED_TENANT)
        await keys.put("openai", "sk-of-the-tenant", by=OPERATOR)
        await on.play(await on.request("four"))
        assert len(on.server.calls) == 2
        assert {call.headers["authorization"] for call in on.server.calls} == {"Bearer sk-of-the-tenant"}
        other = on.service.tenancy.runs_of(OTHER).rooms.blobs
        assert other.path("0" * 64).is_relative_to(tmp_path / "data/blobs/tenants/other")


async def test_rooms_are_opened_once_and_only_for_what_can_be_a_tenant(tmp_path: Path) -> None:
    """The same tenant finds the same rooms, whose live runs it can stop; a hostile id opens none."""
    async with stage(tmp_path, repl("pass")) as on:
        tenancy = on.service.tenancy
        assert tenancy.runs_of(OTHER) is tenancy.runs_of(OTHER)
        with pytest.raises(BadRequest):
            tenancy.runs_of(TenantId("a}:b"))
        assert len(list(tenancy.opened())) == 2
