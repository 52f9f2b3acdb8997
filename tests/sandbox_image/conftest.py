"""Sandboxes for tests."""

from collections.abc import Iterator

import pytest

from tests.sandbox_image.host import GatewayServer, Host, echo_gateway, start_host


@pytest.fixture
def host() -> Iterator[Host]:
    """A claimed sandbox."""
    with start_host() as started:
        started.claim()
        yield started


@pytest.fixture
def gateway(host: Host) -> Iterator[GatewayServer]:
    """A gateway that answers in capitals, for the sandbox of the same test."""
    server = GatewayServer(host.directory, echo_gateway)
    yield server
    server.close()
