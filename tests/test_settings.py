"""Settings that cannot be used."""

import pytest

from service.errors import BadRequest
from service.settings import read_settings

BAD_ADDRESSES = ("127.0.0.1:8000/v1", "ftp://host", "http://", "http://host:port/v1", "http://me:hunter2@host/v1?x=1")
BAD_STORES = ("localhost:6379", "http://:hunter2@host", "redis://:hunter2@host:port/0", "redis://host/zero", "unix://")


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "RLM_REDIS_URL"])
def test_an_address_that_is_none_is_refused_with_its_variable(name: str) -> None:
    """The sentence names the variable and what is expected, and never quotes the value, which may hold a password."""
    for value in BAD_STORES if name == "RLM_REDIS_URL" else BAD_ADDRESSES:
        with pytest.raises(BadRequest, match=f"^{name} must be ") as refused:
            read_settings({name: value})
        assert "hunter2" not in str(refused.value)


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
