"""The data directory belongs to the service alone, and the first key that stands in it."""

import os
from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest
from service.settings import Settings, read_settings
from service.tenants.registry import Registry
from service.wiring.data_directory import make_data_directory
from service.wiring.keys import ADMIN_KEY_FILE, make_first_key, open_registry_alone


def settings_of(directory: Path) -> Settings:
    return read_settings({"RLM_DATA_DIR": str(directory)})


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_data_directory_is_closed_to_others(tmp_path: Path) -> None:
    """It and what lies in it are made for their owner only, whatever the umask."""
    before = os.umask(0)
    try:
        make_data_directory(settings_of(tmp_path / "data"))
    finally:
        os.umask(before)
    assert {mode(path) for path in (tmp_path / "data", *(tmp_path / "data").iterdir())} == {0o700}


def test_an_open_data_directory_of_ours_is_closed_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that stood open to others, and the directories in it, are closed once; the log names each with its mode."""
    data = tmp_path / "data"
    (data / "sessions").mkdir(parents=True)
    for path in (data, data / "sessions"):
        path.chmod(0o755)
    make_data_directory(settings_of(data))
    assert mode(data) == mode(data / "sessions") == 0o700
    assert capsys.readouterr().out.count("directory_closed_to_others") == 2
    make_data_directory(settings_of(data))
    assert "closed" not in capsys.readouterr().out


def test_what_sandboxes_pass_through_stays_passable(tmp_path: Path) -> None:
    """Where a level has let its sandboxes pass, another start of the service does not shut them out; payloads stay
    closed."""
    make_data_directory(settings_of(tmp_path / "data"))
    for path in (tmp_path / "data", *(tmp_path / "data").iterdir()):
        path.chmod(0o711)
    make_data_directory(settings_of(tmp_path / "data"))
    assert {path.name for path in (tmp_path / "data").iterdir() if mode(path) == 0o700} == {"blobs"}
    assert mode(tmp_path / "data") == 0o711


@pytest.mark.needs_root
def test_a_data_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Who owns it could read and replace everything in it, so it is not used, and the message says what to do."""
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(BadRequest, match=r"belongs to uid 65534 .* set RLM_DATA_DIR"):
        make_data_directory(settings_of(tmp_path))
    os.chown(tmp_path, os.geteuid(), -1)
    (tmp_path / "blobs").mkdir()
    os.chown(tmp_path / "blobs", 65534, -1)
    with pytest.raises(BadRequest, match="blobs belongs to uid 65534"):
        make_data_directory(settings_of(tmp_path))


def test_what_is_no_directory_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A file in the place of the data directory is not an unhandled error."""
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="set RLM_DATA_DIR"):
        make_data_directory(settings_of(tmp_path / "file"))


@pytest.mark.anyio
async def test_a_first_key_that_cannot_be_kept_is_none(tmp_path: Path) -> None:
    """Where the file of the first admin key cannot be written no key is made, so that the next start makes one."""
    settings = settings_of(tmp_path / "data")
    async with open_registry_alone(settings) as registry:
        with pytest.raises(BadRequest, match="keys create NAME --scope admin"):
            await make_first_key(settings_of(tmp_path / "gone"), registry.api_keys)
        path = await make_first_key(settings, registry.api_keys)
        assert path is not None
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await registry.api_keys.authenticate(path.read_text().strip())).is_operator
        assert await make_first_key(settings, registry.api_keys) is None
        assert [each.name for each in settings.data_directory.glob("*admin*")] == ["admin-key"]


@pytest.mark.anyio
async def test_of_replicas_that_start_together_one_keeps_the_first_key(tmp_path: Path) -> None:
    """They share the data directory and, in containers, their process ids: the key in the file is the one that works,
    and no other is left lying about."""
    settings = settings_of(tmp_path / "data")
    paths: list[Path | None] = []

    async def start(registry: Registry) -> None:
        paths.append(await make_first_key(settings, registry.api_keys))

    async with open_registry_alone(settings) as registry:
        async with anyio.create_task_group() as replicas:
            for _ in range(8):
                replicas.start_soon(start, registry)
        (path,) = [each for each in paths if each is not None]
        assert (await registry.api_keys.authenticate(path.read_text().strip())).is_operator
        assert [each.name for each in settings.data_directory.glob("*admin*")] == [ADMIN_KEY_FILE]
        assert not list(settings.data_directory.glob(f".{ADMIN_KEY_FILE}*"))
