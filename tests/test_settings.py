"""Settings: what can be set, and what a value that cannot be used is answered with."""

from pathlib import Path

import pytest

from service.errors import BadRequest
from service.settings import read_settings


def test_docker_is_chosen_by_settings() -> None:
    """Every setting of Docker sandboxes reaches the settings; an empty value is the default."""
    chosen = read_settings(
        {
            "RLM_SANDBOX": "docker",
            "RLM_DOCKER_IMAGE": "mine:1",
            "RLM_DOCKER_RUNTIME": "runsc",
            "RLM_DOCKER_HOST": "unix:///run/other.sock",
            "RLM_LAUNCHER_SOCKET": "/run/launcher.sock",
            "RLM_TRUST_RUNC": "1",
        }
    )
    assert (chosen.sandbox, chosen.docker_image, chosen.docker_runtime) == ("docker", "mine:1", "runsc")
    assert (chosen.docker_host, chosen.launcher_socket) == ("unix:///run/other.sock", Path("/run/launcher.sock"))
    assert chosen.trust_runc
    usual = read_settings({"RLM_SANDBOX": "", "RLM_DOCKER_RUNTIME": ""})
    assert (usual.sandbox, usual.docker_runtime, usual.trust_runc) == ("process", "runc", False)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RLM_SANDBOX", "podman", "process or docker"),
        ("RLM_DOCKER_RUNTIME", "kata", "runc or runsc"),
        ("RLM_TRUST_RUNC", "yes", "0 or 1"),
        ("RLM_SANDBOX_SLOTS", "many", "a whole number"),
        ("RLM_SANDBOX_MEMORY_MB", "1", "between"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_variable(name: str, value: str, expected: str) -> None:
    """The sentence says which variable, what it may be and what was found."""
    with pytest.raises(BadRequest, match=f"{name} must be .*{expected}"):
        read_settings({name: value})
