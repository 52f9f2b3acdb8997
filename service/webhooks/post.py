"""One POST to an address that was checked: no redirect, no proxy, no cookie, nothing kept of the response but its
status. Bounded in size and time."""

import contextlib
import ssl
import time
from collections.abc import Sequence
from functools import partial

import anyio
import anyio.abc
import h11

from service.ids import TenantId
from service.webhooks.lookups import Address, Lookups
from service.webhooks.targets import ForbiddenTarget, Target, TargetRules
from service.webhooks.values import Attempt, Outcome

CONNECT_WITHIN_S = 5.0
WITHIN_S = 15.0
"""For the whole attempt, the look-up of the name included."""
LARGEST_HEAD = 16 << 10
READ_BYTES = 4096
_USER_AGENT = "rlm-service-webhooks"


class Poster:
    """Shared by all deliveries of a replica."""

    def __init__(self, rules: TargetRules, *, within_s: float = WITHIN_S, lookups: Lookups | None = None) -> None:
        self._rules = rules
        self._lookups = lookups or Lookups()
        self._within_s = within_s
        self._tls = ssl.create_default_context()

    async def post(
        self, tenant: TenantId, url: str, headers: Sequence[tuple[str, str]], body: bytes, *, at: float
    ) -> Attempt:
        """Send it for this tenant, and say what came of it. Raises nothing that a receiver can cause."""
        began = time.monotonic()
        status: int | None = None
        try:
            with anyio.fail_after(self._within_s):
                status = await self._send(tenant, self._rules.parse(url), headers, body)
            outcome = Outcome.DELIVERED if 200 <= status < 300 else Outcome.REFUSED
        except ForbiddenTarget:
            outcome = Outcome.FORBIDDEN_TARGET
        except TimeoutError:
            outcome = Outcome.TIMED_OUT
        except ssl.SSLError:
            outcome = Outcome.TLS_FAILED
        except h11.RemoteProtocolError:
            outcome = Outcome.BAD_RESPONSE
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError) as exc:
            outcome = Outcome.TLS_FAILED if isinstance(exc.__cause__, ssl.SSLError) else Outcome.UNREACHABLE
        return Attempt(at=at, outcome=outcome, status=status, duration_s=round(time.monotonic() - began, 3))

    async def _send(self, tenant: TenantId, target: Target, headers: Sequence[tuple[str, str]], body: bytes) -> int:
        addresses = await self._rules.resolve(target, partial(self._lookups.addresses_of, tenant))
        stream = await self._connect(target, addresses)
        try:
            return await _exchange(stream, target, headers, body)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def _connect(self, target: Target, addresses: Sequence[Address]) -> anyio.abc.ByteStream:
        """To the first address that takes the connection."""
        failure: OSError = OSError("no address")
        for address in addresses:
            try:
                with anyio.fail_after(CONNECT_WITHIN_S):
                    if not target.is_tls:
                        return await anyio.connect_tcp(str(address), target.port)
                    return await anyio.connect_tcp(
                        *(str(address), target.port),
                        tls=True,
                        ssl_context=self._tls,
                        tls_hostname=target.host,
                        tls_standard_compatible=False,
                    )
            except ssl.SSLError:
                raise
            except OSError as exc:  # a time-out is one too
                failure = exc
        raise failure


async def _exchange(
    stream: anyio.abc.ByteStream, target: Target, headers: Sequence[tuple[str, str]], body: bytes
) -> int:
    """The status of the response; nothing of it is read further than that."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST_HEAD)
    request = h11.Request(
        method="POST",
        target=target.path,
        headers=[
            ("host", target.authority),
            ("user-agent", _USER_AGENT),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            *headers,
        ],
    )
    sent = b"".join(
        part for event in (request, h11.Data(data=body), h11.EndOfMessage()) if (part := connection.send(event))
    )
    # A receiver may answer before it has read everything; what it says then counts.
    with contextlib.suppress(anyio.BrokenResourceError):
        await stream.send(sent)
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive(READ_BYTES))
            except anyio.EndOfStream:
                connection.receive_data(b"")
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("closed without a response")
