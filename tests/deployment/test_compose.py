"""docker-compose.yml with both generations of Compose: it comes up, answers, exposes nothing, loses nothing."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest

from tests.deployment.deployments import DEADLINE_S, Deployment, deployed, eventually, shown

pytestmark = [
    pytest.mark.needs_compose,
    pytest.mark.takes_long,
    pytest.mark.anyio,
    pytest.mark.timeout(900),
]

PROVIDER_KEY = "sk-bait-that-no-listing-shows"
HAYSTACK = "\n".join("The magic number is 8472093" if n == 13_131 else f"line {n}" for n in range(20_000))


@pytest.fixture(
    scope="module",
    params=[pytest.param(generation, marks=pytest.mark.xdist_group(f"compose {generation}")) for generation in "12"],
)
def it(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Up by one generation of Compose, for all tests of this module."""
    with deployed(request.param, secrets={"OPENAI_API_KEY": PROVIDER_KEY}) as deployment:
        yield deployment


async def client_of(it: Deployment) -> httpx.AsyncClient:
    address = await it.address()
    headers = {"authorization": f"Bearer {it.admin_key()}"}
    return httpx.AsyncClient(base_url=address, headers=headers, timeout=DEADLINE_S)


async def submitted(client: httpx.AsyncClient, *, wait_s: int) -> dict[str, Any]:
    stored = await client.post("/v1/contexts", content=HAYSTACK, headers={"content-type": "text/plain"})
    body = {
        "question": "What is the magic number?",
        "contexts": [{"context_id": stored.json()["context_id"]}],
        "root_model": "scripted/root",
        "sub_model": "scripted/sub",
    }
    reply = await client.post("/v1/runs", json=body, headers={"prefer": f"wait={wait_s}"} if wait_s else {})
    assert reply.status_code in {200, 202}, reply.text
    run: dict[str, Any] = reply.json()
    return run


async def answer_of(client: httpx.AsyncClient, run: dict[str, Any]) -> str:
    """Once there is one."""

    async def look() -> str | None:
        try:
            reply = await client.get(f"/v1/runs/{run['run_id']}/answer")
        except httpx.TransportError:  # it is being started anew
            return None
        return reply.text if reply.status_code == 200 else None

    return await eventually(look, f"run {run['run_id']} is answered")


async def test_a_key_leads_to_an_answer_out_of_a_sibling_sandbox(it: Deployment) -> None:
    """With the first admin key a run is answered; sandboxes are containers of their own beside the service's."""
    async with await client_of(it) as client:
        run = await submitted(client, wait_s=60)
        assert "8472093" in await answer_of(client, run)
    sandbox = (await it.some_sandboxes())[0]
    assert sandbox["HostConfig"]["NetworkMode"] == "none"
    assert "com.docker.compose.project" not in sandbox["Config"]["Labels"]


async def test_sandboxes_share_nothing_writable_with_the_machine(it: Deployment) -> None:
    """Of the machine a sandbox has its session directory, read-only, and its root cannot be written to."""
    await it.address()
    for sandbox in await it.some_sandboxes():
        assert [(mount["Destination"], mount["RW"]) for mount in sandbox["Mounts"]] == [("/rlm/session", False)]
        assert sandbox["HostConfig"]["ReadonlyRootfs"]


async def test_only_the_api_is_published_and_only_on_loopback(it: Deployment) -> None:
    """No other container has a port or even a network."""
    await it.address()
    published = {
        container["Config"]["Labels"]["com.docker.compose.service"]: container["HostConfig"]["PortBindings"] or {}
        for container in it.containers()
    }
    assert published.keys() == {"api", "launcher", "store"}
    (binding,) = published["api"]["8000/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    assert not published["launcher"]
    assert not published["store"]
    for service in ("launcher", "store"):
        assert it.container(service)["HostConfig"]["NetworkMode"] == "none"


async def test_each_process_has_what_it_needs_and_no_more(it: Deployment) -> None:
    """Roots are read-only, capabilities are dropped, memory and processes are bounded; the engine's socket and root's
    uid are the launcher's alone."""
    await it.address()
    for service in ("api", "launcher", "store"):
        container = it.container(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        assert not host["Privileged"]
        mounted = {mount["Destination"] for mount in container["Mounts"]}
        is_launcher = service == "launcher"
        assert ("/var/run/docker.sock" in mounted) == is_launcher
        assert (container["Config"]["User"] == "0:0") == is_launcher
        assert bool(host["CapAdd"]) == is_launcher


async def test_no_secret_is_in_what_the_engine_shows_or_in_a_log(it: Deployment) -> None:
    """Not a provider's key, not the installation's secrets, not the first admin key."""
    await it.address()
    secrets = [
        PROVIDER_KEY,
        it.admin_key(),
        *((it.directory / "secrets" / name).read_text() for name in ("pepper", "vault-key")),
    ]
    places = [shown(container) for container in (*it.containers(), *it.sandboxes())] + [it.logs()]
    assert not [place[:200] for place in places for secret in secrets if secret in place]


async def test_killing_the_api_loses_nothing(it: Deployment) -> None:
    """After SIGKILL the container is started anew: an old answer is there still, and runs under way are answered."""
    async with await client_of(it) as client:
        old = await submitted(client, wait_s=60)
        before = await answer_of(client, old)
        under_way = [await submitted(client, wait_s=0) for _ in range(3)]
    state = it.container("api")["State"]
    os.kill(state["Pid"], signal.SIGKILL)

    async def started_anew() -> bool | None:
        return it.container("api")["State"]["StartedAt"] != state["StartedAt"] or None

    await eventually(started_anew, "the container is started anew")
    async with await client_of(it) as client:
        assert await answer_of(client, old) == before
        for run in under_way:
            assert "8472093" in await answer_of(client, run)


async def test_down_leaves_nothing_running_and_up_finds_everything_again(it: Deployment) -> None:
    """No container, sandbox, network, mount or session directory is left; the next start has the runs of before."""
    async with await client_of(it) as client:
        run = await submitted(client, wait_s=60)
        before = await answer_of(client, run)
    await anyio.to_thread.run_sync(it.compose, "down", "--timeout", "60")
    assert it.containers() == []

    async def no_sandboxes() -> bool | None:
        return None if it.sandboxes() else True

    await eventually(no_sandboxes, "the sandboxes are gone")
    assert it.networks() == []
    assert os.listdir(it.directory / "data/sessions") == []
    assert os.listdir(it.directory / "stage") == []
    await anyio.to_thread.run_sync(it.compose, "up", "-d", "--no-build")
    async with await client_of(it) as client:
        assert await answer_of(client, run) == before
