"""What `doctor` says of a store of one's own."""

from pathlib import Path

import anyio
import pytest

from service.cli.doctor import store_finding
from service.cli.findings import State
from service.errors import RlmServiceError
from service.settings import read_settings
from service.store.errors import StoreFailed
from service.wiring.blobs import blobs_directory
from service.wiring.data_directory import make_data_directory
from tests.store_server import start_store_server

pytestmark = pytest.mark.anyio


async def told(directory: Path, *options: str) -> tuple[State, str]:
    """What is said of a server with these options."""
    settings = read_settings({"RLM_DATA_DIR": str(directory / "data"), "RLM_REDIS_URL": f"unix://{directory / 's'}"})
    make_data_directory(settings)
    async with await start_store_server(directory, *options) as process:
        try:
            found = await store_finding(settings)
        finally:
            process.kill()
    return found.state, " ".join((found.text, *found.details))


async def test_a_store_that_may_forget_is_a_warning(tmp_path: Path) -> None:
    """One that drops keys when it is full, and one without an append-only file; each with what to do."""
    state, text = await told(tmp_path, "--maxmemory-policy", "allkeys-lru", "--appendonly", "no")
    assert state is State.WARNING
    assert "maxmemory-policy noeviction" in text
    assert "appendonly yes" in text
    assert (await told(tmp_path, "--maxmemory-policy", "noeviction"))[0] is State.OK


async def test_a_store_that_cannot_be_used_is_broken(tmp_path: Path) -> None:
    """One that takes no writes, and one that knows nothing of the blobs in the data directory."""
    with pytest.raises(StoreFailed, match="out of memory"):
        await told(tmp_path, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
    settings = read_settings({"RLM_DATA_DIR": str(tmp_path / "data")})
    await anyio.Path(blobs_directory(settings) / "paired-store").write_text("another")
    with pytest.raises(RlmServiceError, match="lost its data"):
        await told(tmp_path)
