"""`blobs collect`: what it does to a data directory of the test's own, and what it prints."""

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.cli import blob_commands
from service.cli.exit_codes import ExitCode
from service.ids import EMBEDDED_TENANT
from service.loop.values import BlobRef
from service.runs.retention.collecting import StoreForgot
from service.settings import read_settings
from service.store.blobs import Blobs
from service.store.keys import Keys
from service.wiring.blobs import blobs_directory, open_blobs
from service.wiring.keys import open_registry_alone
from tests.cli.conftest import CommandLine

pytestmark = pytest.mark.anyio

LONG_AGO = 1_000_000.0


async def old_blob(blobs: Blobs, content: bytes) -> BlobRef:
    ref = await blobs.put(content)
    os.utime(blobs.path(ref.sha256), (LONG_AGO, LONG_AGO))
    return ref


async def test_what_nothing_refers_to_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unreferenced blobs of the default tenant and of others go, the rest stays, and both are told; blobs of another
    store are left alone until that is meant."""
    monkeypatch.setenv("RLM_DATA_DIR", str(tmp_path / "data"))
    settings = read_settings()
    with capture_logs():
        async with open_registry_alone(settings) as registry:
            blobs = open_blobs(settings, EMBEDDED_TENANT)
            kept, stray = await old_blob(blobs, b"kept"), await old_blob(blobs, b"stray")
            await blobs.put(b"young")
            await registry.store.write("SET", Keys(EMBEDDED_TENANT)("test"), kept.sha256)
        assert await blob_commands.collect(again_after_s=0, force=False, as_json=True) is ExitCode.ANSWERED
        assert json.loads(capsys.readouterr().out) == {
            "suspects": 2,
            "young": 1,
            "referenced": 1,
            "waiting": 0,
            "removed": 1,
            "freed_bytes": 5,
        }
        assert (await blobs.has(kept.sha256), await blobs.has(stray.sha256)) == (True, False)
        (blobs_directory(settings) / "paired-store").write_bytes(b"another store's")
        with pytest.raises(StoreForgot):
            await blob_commands.collect(again_after_s=0, force=False, as_json=False)
        assert await blob_commands.collect(again_after_s=0, force=True, as_json=False) is ExitCode.ANSWERED
    assert capsys.readouterr().out == (
        "removed 0 blobs (0 bytes); 1 are referenced, 0 wait for the next look, "
        "1 were touched within the hour and not looked at\n"
    )


def test_the_command_says_why_it_refuses(tmp_path: Path) -> None:
    """Over a store that knows none of the blobs it ends with the code of a failed store, and a sentence."""
    line = CommandLine(directory=tmp_path)
    shard = tmp_path / "data" / "blobs" / "sha256" / "ab"
    shard.mkdir(parents=True)
    (shard / ("ab" * 32)).write_bytes(b"stray")
    os.utime(shard / ("ab" * 32), (LONG_AGO, LONG_AGO))
    done = line.run("blobs", "collect", "--again-after", "0")
    assert done.code == ExitCode.PLATFORM
    assert "refers to none of 1 blobs" in done.err
    assert "--force" in done.err
    assert list(shard.iterdir())
