"""One POST: what a receiver can do to it."""

import asyncio
import socket
from ipaddress import ip_network

import anyio
import pytest

from service.ids import TenantId
from service.webhooks.post import LARGEST_HEAD, Poster
from service.webhooks.targets import TargetRules
from service.webhooks.values import Outcome
from tests.webhooks.receiving import Heard, receiving, status

pytestmark = pytest.mark.anyio

TENANT = TenantId("default")
RULES = TargetRules((ip_network("127.0.0.0/8"),))
HEADERS = [("webhook-id", "dlv_1")]


async def test_it_sends_what_it_is_given() -> None:
    """Path, query, headers and body arrive, and the status comes back; what follows it is not read."""

    async def answer(heard: Heard) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1000

    async with receiving(answer) as receiver:
        attempt = await Poster(RULES).post(TENANT, receiver.url, HEADERS, b'{"a":1}', at=7.0)
        (heard,) = receiver.heard
    assert (attempt.outcome, attempt.status, attempt.at) == (Outcome.DELIVERED, 200, 7.0)
    assert (heard.path, heard.headers["webhook-id"], heard.body) == ("/hook?token=t", "dlv_1", b'{"a":1}')


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (status(500), Outcome.REFUSED),
        (b"", Outcome.BAD_RESPONSE),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Outcome.BAD_RESPONSE),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * LARGEST_HEAD, Outcome.BAD_RESPONSE),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + status(200), Outcome.DELIVERED),
    ],
)
async def test_a_receiver_cannot_make_it_fail_otherwise(answer: bytes, outcome: Outcome) -> None:
    """Refusals, silence, other protocols and endless heads are outcomes of an attempt."""

    async def say(heard: Heard) -> bytes:
        return answer

    async with receiving(say) as receiver:
        assert (await Poster(RULES).post(TENANT, receiver.url, HEADERS, b"{}", at=0.0)).outcome is outcome


async def test_a_redirect_is_not_followed() -> None:
    """Wherever it leads, nothing is sent there."""
    async with receiving() as elsewhere:

        async def redirect(heard: Heard) -> bytes:
            return status(307, f"location: {elsewhere.url}")

        async with receiving(redirect) as receiver:
            attempt = await Poster(RULES).post(TENANT, receiver.url, HEADERS, b"{}", at=0.0)
        assert (attempt.outcome, attempt.status, elsewhere.heard) == (Outcome.REFUSED, 307, [])


async def test_a_receiver_that_never_answers_is_given_up() -> None:
    """When its time is over."""

    async def never(heard: Heard) -> bytes:
        await anyio.Event().wait()
        return b""

    async with receiving(never) as receiver:
        attempt = await Poster(RULES, within_s=0.5).post(TENANT, receiver.url, HEADERS, b"{}", at=0.0)
    assert (attempt.outcome, attempt.status) == (Outcome.TIMED_OUT, None)


async def test_a_receiver_without_tls_gets_nothing_over_https() -> None:
    """What answers something else to the greeting is told apart from one that is not there."""

    async def answers_in_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(status(400))
        writer.close()

    server = await asyncio.start_server(answers_in_plain, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert (await Poster(RULES).post(TENANT, url, HEADERS, b"{}", at=0.0)).outcome is Outcome.TLS_FAILED


async def test_what_is_not_there_or_not_allowed_is_an_outcome() -> None:
    """A port that nobody listens at, and an address that may not be asked: nothing is sent there."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert (await Poster(RULES).post(TENANT, url, HEADERS, b"{}", at=0.0)).outcome is Outcome.UNREACHABLE
    async with receiving() as receiver:
        forbidden = await Poster(TargetRules()).post(TENANT, receiver.url, HEADERS, b"{}", at=0.0)
        assert (forbidden.outcome, receiver.heard) == (Outcome.FORBIDDEN_TARGET, [])
