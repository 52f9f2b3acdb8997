"""Settings: what is read, and what cannot be used."""

import re
from pathlib import Path

import pytest

from service.errors import BadRequest
from service.settings import read_settings
from tests.machine import ROOT

BAD_ADDRESSES = ("127.0.0.1:8000/v1", "ftp://host", "http://", "http://host:port/v1", "http://me:hunter2@host/v1?x=1")
BAD_STORES = ("localhost:6379", "http://:hunter2@host", "redis://:hunter2@host:port/0", "redis://host/zero", "unix://")


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "RLM_REDIS_URL"])
def test_an_address_that_is_none_is_refused_with_its_variable(name: str) -> None:
    """The sentence names the variable and what is expected, and never quotes the value, which may hold a password."""
    for value in BAD_STORES if name == "RLM_REDIS_URL" else BAD_ADDRESSES:
        with pytest.raises(BadRequest, match=f"^{name} must be ") as refused:
            read_settings({name: value})
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("RLM_DOCKER_IMAGE", "Bad Name!", "such as rlm-sandbox"),
        ("RLM_DOCKER_IMAGE", "-x", "such as rlm-sandbox"),
        ("RLM_DOCKER_HOST", "/var/run/docker.sock", "such as unix:///var/run/docker.sock"),
    ],
)
def test_a_name_or_an_engine_that_is_none_is_told_what_would_be_one(name: str, value: str, right: str) -> None:
    """What only the launcher or the engine would stumble over is refused before either is asked."""
    with pytest.raises(BadRequest, match=f"^{name} must be .*{right}"):
        read_settings({name: value})


def test_what_is_set_and_does_nothing_is_told() -> None:
    """A mistyped setting, and a runtime for sandboxes that are not Docker's, have a sentence each; what is read has
    none, be it set or not."""
    told = read_settings({"RLM_SANDBX": "docker", "RLM_DOCKER_RUNTIME": "runsc", "RLM_XYZZY_QUUX": "1"}).without_effect
    assert told == (
        "RLM_SANDBX is not a setting; did you mean RLM_SANDBOX?",
        "RLM_XYZZY_QUUX is not a setting (docs/settings.md)",
        "RLM_DOCKER_RUNTIME does nothing without RLM_SANDBOX=docker (or --sandbox docker)",
    )
    assert not read_settings({"RLM_SANDBOX": "docker", "RLM_DOCKER_RUNTIME": "runsc"}).without_effect
    assert not read_settings({"RLM_LEASE_S": "3", "RLM_DOCKER_RUNTIME": "", "HOME": "/x"}).without_effect


def test_every_documented_setting_is_known() -> None:
    """No setting that the documents list is called unknown."""
    listed = re.findall(r"^\| `(RLM_[A-Z_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert len(listed) > 20
    told = read_settings(dict.fromkeys(listed, "")).without_effect
    assert not told


def test_usual_addresses_are_taken() -> None:
    """Ports, passwords, paths, sockets and a slash at the end are all fine; so is nothing."""
    for url in ("redis://127.0.0.1:6379/0", "rediss://:pw@host", "unix:///run/redis.sock?db=1", "redis://[::1]:6379"):
        assert read_settings({"RLM_REDIS_URL": url}).redis_url == url
    assert read_settings({"RLM_REDIS_URL": ""}).redis_url is None
    assert read_settings({"OPENAI_BASE_URL": "http://me:pw@127.0.0.1:1/v1/"}).openai_base_url.endswith(
        "@127.0.0.1:1/v1"
    )


def test_settings_do_not_show_passwords() -> None:
    """The repr of settings holds no address of a store."""
    assert "hunter2" not in repr(read_settings({"RLM_REDIS_URL": "redis://:hunter2@host"}))


def test_a_file_of_the_secrets_directory_stands_for_its_variable(tmp_path: Path) -> None:
    """Settings and the keys of providers come out of files with their names; other files there are left alone."""
    (tmp_path / "OPENAI_API_KEY").write_text("sk-from-a-file\n")
    (tmp_path / "GEMINI_API_KEY").write_text("another")
    (tmp_path / "RLM_REDIS_URL").write_text("redis://:hunter2@host")
    (tmp_path / "..data").mkdir()
    (tmp_path / "notes.txt").write_bytes(b"\xff")
    settings = read_settings({"RLM_SECRETS_DIR": str(tmp_path), "RLM_PORT": "1"})
    assert (settings.openai_api_key, settings.redis_url) == ("sk-from-a-file", "redis://:hunter2@host")
    assert settings.environment["GEMINI_API_KEY"] == "another"
    assert settings.port == 1


@pytest.mark.parametrize("content", [b"\xff", b"x" * 4097, b"a\0b"], ids=["not text", "too long", "a NUL"])
def test_a_secret_that_cannot_be_one_is_refused_unquoted(tmp_path: Path, content: bytes) -> None:
    """The sentence names the file and the variable."""
    (tmp_path / "OPENAI_API_KEY").write_bytes(content)
    with pytest.raises(BadRequest, match="must hold the value of OPENAI_API_KEY"):
        read_settings({"RLM_SECRETS_DIR": str(tmp_path)})


def test_a_secret_has_one_place(tmp_path: Path) -> None:
    """A variable that is set besides its file is refused, and so is a directory that is not there."""
    (tmp_path / "OPENAI_API_KEY").write_text("hunter2")
    with pytest.raises(BadRequest, match="keep one of the two") as refused:
        read_settings({"RLM_SECRETS_DIR": str(tmp_path), "OPENAI_API_KEY": "hunter2"})
    assert "hunter2" not in str(refused.value)
    with pytest.raises(BadRequest, match="RLM_SECRETS_DIR"):
        read_settings({"RLM_SECRETS_DIR": str(tmp_path / "nowhere")})
