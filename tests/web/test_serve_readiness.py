"""What `serve` says of itself while it stands, and when it cannot."""

import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest

from service.cli.exit_codes import ExitCode
from service.contexts.presence import any_is_kept
from service.errors import BadRequest, RlmServiceError
from service.main import Serving, serve
from service.settings import read_settings
from service.store.connection import open_store
from service.store.errors import StoreFailed
from service.store.pairing import Pairing, Standing
from service.web.store_probe import StoreProbe
from service.wiring.blobs import blobs_directory
from service.wiring.service import open_service
from tests.serve_process import PATIENCE_S, SERVE
from tests.store_server import store_server
from tests.web.alone import alone, serve_alone
from tests.web.serving import served

pytestmark = [pytest.mark.anyio]


def not_reached(serving: Serving) -> None:
    raise AssertionError(f"somebody would have been served at {serving.address}")


async def told_ready(client: httpx.AsyncClient, status: int) -> str | None:
    """The reason, once `/readyz` answers with this status."""
    while True:
        reply = await client.get("/readyz")
        if reply.status_code == status:
            reason: str | None = reply.json()["reason"]
            return reason


@pytest.mark.takes_long
async def test_readiness_follows_the_store(tmp_path: Path) -> None:
    """Not ready while the store is silent or gone, with why; ready again when it is back. Alive all the while."""
    async with (
        store_server(tmp_path) as store,
        serve_alone(tmp_path, RLM_REDIS_URL=f"unix://{tmp_path / 's'}") as serve,
        serve.client() as client,
    ):
        with anyio.fail_after(PATIENCE_S):
            assert await told_ready(client, 200) is None
            store.send_signal(signal.SIGSTOP)
            assert await told_ready(client, 503) == "the store has not answered for 2 seconds"
            store.send_signal(signal.SIGCONT)
            assert await told_ready(client, 200) is None
            store.kill()
            await store.wait()
            assert await told_ready(client, 503) == "the store cannot be reached"
            refused = await client.get("/v1/runs")
            assert (refused.status_code, refused.json()["code"]) == (503, "store_failed")
            assert (await client.get("/livez")).status_code == 200
            # A path that there is not asks nobody, whoever asks for it.
            assert (await client.get("/v1/nothing")).status_code == 404
            async with store_server(tmp_path):
                assert await told_ready(client, 200) is None
                assert (await client.get("/v1/runs")).status_code == 200
                serve.send_signal(signal.SIGTERM)
                assert await serve.ends() == 0


async def test_a_full_store_is_not_ready(tmp_path: Path) -> None:
    """A server that answers and takes no writes is told as that, and asking leaves nothing in it; ready again when it
    takes them."""
    async with served(tmp_path) as it:
        store = it.stage.service.store
        keys = await store.read("DBSIZE")
        await store.write("CONFIG", "SET", "maxmemory", "1")
        reply = await it.client.get("/readyz")
        assert (reply.status_code, reply.json()["status"]) == (503, "not_ready")
        assert "takes no writes" in reply.json()["reason"]
        refused = await it.client.post("/v1/contexts", json={"text": "four"})
        assert (refused.status_code, "RLM_KEEP_RUNS_DAYS" in refused.json()["detail"]) == (503, True)
        await store.write("CONFIG", "SET", "maxmemory", "0")
        assert (await it.client.get("/readyz")).status_code == 200
        assert await store.read("DBSIZE") == keys


async def test_a_store_that_lost_its_data_is_not_ready_and_not_begun_with(tmp_path: Path) -> None:
    """Emptied under a replica it is told as that; a start over it is refused before the admin key is replaced, until
    the operator says that nothing else is needed."""
    settings = read_settings(alone(tmp_path))
    async with open_service(settings, serves=True) as service:
        pairing = Pairing(service.store, blobs_directory(settings))
        assert await pairing.standing() is Standing.PAIRED
        await service.store.write("FLUSHALL")
        async with anyio.create_task_group() as tasks:
            trouble = await StoreProbe(service.store, pairing, service.disk, tasks).trouble()
        assert trouble is not None
        assert "lost its data" in trouble
    (settings.data_directory / "admin-key").write_text("of before")
    with pytest.raises(StoreFailed, match=r"lost its data.*blobs collect --force"):
        await serve(settings, not_reached)
    assert (settings.data_directory / "admin-key").read_text() == "of before"
    async with open_store(data_directory=settings.data_directory, redis_url=None) as store:
        await Pairing(store, blobs_directory(settings)).pair_anew()
    async with open_service(settings, serves=True):
        """It begins again."""


async def test_a_data_directory_that_is_not_the_stores_is_refused(tmp_path: Path) -> None:
    """Two replicas with directories of their own over one store would each miss what the other keeps."""
    async with store_server(tmp_path):
        shared = {"RLM_REDIS_URL": f"unix://{tmp_path / 's'}"}
        ours = read_settings(alone(tmp_path, **shared))
        async with open_service(ours, serves=True):
            theirs = replace(ours, data_directory=tmp_path / "elsewhere")
            with pytest.raises(BadRequest, match=r"RLM_DATA_DIR to the one that all replicas"):
                await serve(theirs, not_reached)
        async with open_service(ours, serves=True):
            """The one that came first begins again."""


async def notes() -> AsyncIterator[bytes]:
    yield b"some notes"


async def test_an_empty_data_directory_is_refused_by_a_store_with_contexts(tmp_path: Path) -> None:
    """What the command line kept before anybody served is in another directory; that one is served."""
    async with store_server(tmp_path):
        ours = read_settings(alone(tmp_path, RLM_REDIS_URL=f"unix://{tmp_path / 's'}"))
        async with open_service(ours) as service:
            await service.runs.rooms.contexts.put_text("notes", notes())
        theirs = replace(ours, data_directory=tmp_path / "elsewhere")
        with pytest.raises(BadRequest, match=r"the store refers to some: set RLM_DATA_DIR"):
            await serve(theirs, not_reached)
        async with open_service(ours, serves=True):
            """Its own directory is not refused."""


async def test_of_replicas_that_come_to_a_new_store_at_once_one_directory_is_paired(tmp_path: Path) -> None:
    """Those that share a directory all join, whoever is first; another directory is refused."""
    directories = [tmp_path / "shared", tmp_path / "shared", tmp_path / "shared", tmp_path / "other"]
    joined: list[Path] = []
    async with (
        open_store(data_directory=tmp_path / "data", redis_url=None) as store,
        anyio.create_task_group() as tasks,
    ):

        async def join(directory: Path) -> None:
            with suppress(BadRequest):
                await Pairing(store, directory).join(has_payloads=partial(any_is_kept, store))
                joined.append(directory)

        for directory in directories:
            await anyio.Path(directory).mkdir(exist_ok=True)
            tasks.start_soon(join, directory)
    assert joined in ([tmp_path / "shared"] * 3, [tmp_path / "other"])


@pytest.mark.takes_long
def test_what_cannot_be_served_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Nothing on stdout, one line on stderr that names the setting, and the exit code of whose fault it is."""
    environment = alone(tmp_path, RLM_PORT="many")
    done = subprocess.run(SERVE, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.BAD_USAGE, "")
    assert done.stderr == "rlm-service: RLM_PORT must be a whole number, found 'many'\n"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"RLM_DATA_DIR": "/dev/null/x"}, "RLM_DATA_DIR"),
        ({"RLM_REDIS_URL": "unix:///dev/null"}, "RLM_REDIS_URL"),
        ({"RLM_CONFIG": "/dev/null/x"}, "RLM_CONFIG"),
        ({"RLM_PORT": "taken"}, "set RLM_HOST and RLM_PORT"),
    ],
    ids=["data directory", "store", "configuration", "port"],
)
async def test_a_setting_that_cannot_be_used_ends_the_start(
    tmp_path: Path, settings: dict[str, str], sentence: str
) -> None:
    """Whatever is wrong is found before anybody is let in, and what was opened until then is closed again."""

    with socket.create_server(("127.0.0.1", 0)) as taken:
        if settings.get("RLM_PORT") == "taken":
            settings = {"RLM_PORT": str(taken.getsockname()[1])}
        with pytest.raises(RlmServiceError, match=sentence):
            await serve(read_settings(alone(tmp_path, **settings)), not_reached)
