"""What is promised at which level, and whom a level may serve."""

import pytest

from service.sandboxes.capabilities import Exposure, Held, capabilities, check_exposure, is_loopback, refusal
from service.sandboxes.port import Isolation, SandboxRefused

ONE_AT_HOME = Exposure(bind_host=None, tenants_share=False)
ONE_ON_LOOPBACK = Exposure(bind_host="127.0.0.1", tenants_share=False)
ONE_OPEN = Exposure(bind_host="0.0.0.0", tenants_share=False)
SEVERAL_ON_LOOPBACK = Exposure(bind_host="::1", tenants_share=True)
SEVERAL_OPEN = Exposure(bind_host="10.1.2.3", tenants_share=True)
EVERYBODY = (ONE_AT_HOME, ONE_ON_LOOPBACK, ONE_OPEN, SEVERAL_ON_LOOPBACK, SEVERAL_OPEN)


def at(level: str, *, trusted: bool = False) -> Isolation:
    provider = "docker" if level in ("runc", "runsc") else "process"
    return Isolation(provider=provider, level=level, multi_tenant=level == "runsc" or trusted)


@pytest.mark.parametrize(
    ("isolation", "served"),
    [
        (at("runsc"), set(EVERYBODY)),
        (at("runc"), {ONE_AT_HOME, ONE_ON_LOOPBACK, ONE_OPEN}),
        (at("runc", trusted=True), set(EVERYBODY)),
        (at("namespaces"), {ONE_AT_HOME, ONE_ON_LOOPBACK}),
        (at("namespaces", trusted=True), {ONE_AT_HOME, ONE_ON_LOOPBACK}),
        (at("landlock"), {ONE_AT_HOME, ONE_ON_LOOPBACK}),
        (at("seatbelt"), {ONE_AT_HOME, ONE_ON_LOOPBACK}),
        (at("none"), {ONE_AT_HOME, ONE_ON_LOOPBACK}),
    ],
)
def test_a_level_serves_whom_it_may(isolation: Isolation, served: set[Exposure]) -> None:
    """Process sandboxes serve one tenant on loopback, runc one tenant anywhere, gVisor or a trusted runc everybody."""
    assert {exposure for exposure in EVERYBODY if refusal(isolation, exposure) is None} == served


@pytest.mark.parametrize(
    ("isolation", "exposure", "fix"),
    [
        (at("namespaces"), ONE_OPEN, "RLM_SANDBOX=docker"),
        (at("landlock"), SEVERAL_ON_LOOPBACK, "RLM_SANDBOX=docker"),
        (at("seatbelt"), ONE_OPEN, "RLM_SANDBOX=docker"),
        (at("runc"), SEVERAL_OPEN, "RLM_DOCKER_RUNTIME=runsc"),
    ],
)
def test_a_refusal_says_what_to_do(isolation: Isolation, exposure: Exposure, fix: str) -> None:
    """Nothing is lowered: the service does not start, and the sentence names the setting."""
    with pytest.raises(SandboxRefused, match=fix):
        check_exposure(isolation, exposure)


@pytest.mark.parametrize("level", ["runsc", "runc", "namespaces", "landlock", "seatbelt", "none"])
def test_every_level_says_how_far_each_promise_goes(level: str) -> None:
    """No promise is left out at any level, and each has a sentence."""
    found = capabilities(at(level))
    assert [promise.name for promise in found.promises] == [
        "linux",
        "host_files",
        "network",
        "processes",
        "memory",
        "disk",
        "processor",
        "side_channels",
    ]
    assert all(promise.text and "nothing is known" not in promise.text for promise in found.promises)


def test_what_runc_cannot_promise_is_said() -> None:
    """The shared Linux is the difference between runc and gVisor, and is named as not held."""
    held = {promise.name: promise.held for promise in capabilities(at("runc")).promises}
    assert held["linux"] is Held.NOT_HELD
    assert any(line.startswith("linux: containers share") for line in capabilities(at("runc")).shortcomings)
    assert not any(line.startswith("linux") for line in capabilities(at("runsc")).shortcomings)


def test_an_unknown_level_promises_nothing() -> None:
    """A level that this version does not know is not taken for a safe one."""
    assert {promise.held for promise in capabilities(at("novel")).promises} == {Held.NOT_HELD}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("/run/api.sock", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    """A name is not looked up: only `localhost` itself counts."""
    assert is_loopback(host) is expected
