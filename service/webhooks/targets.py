"""Which addresses a webhook may ask. A tenant names the URL, so it must not lead into the operator's own networks.

The name is looked up at each attempt, every address that it has must be allowed, and the connection goes to the very
address that was checked: a name that changes between two lookups gains nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from service.errors import BadRequest
from service.webhooks.lookups import Address

LONGEST_URL = 2048
_EMBEDDING = ip_network("64:ff9b::/96")
"""NAT64: the last 32 bits are an IPv4 address."""

Network = IPv4Network | IPv6Network
LookUp = Callable[[str, int], Awaitable[list[Address]]]


class ForbiddenTarget(BadRequest):
    """The URL leads, or may lead, to an address that webhooks may not ask."""

    code = "forbidden_target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A checked URL in its parts."""

    host: str
    """As the certificate names it."""
    port: int
    path: str
    """With the query."""
    is_tls: bool

    @property
    def authority(self) -> str:
        """For the header `host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TargetRules:
    """What the operator allows beyond public addresses."""

    networks: tuple[Network, ...] = ()

    def parse(self, url: str) -> Target:
        """The URL in its parts.

        Raises:
            ForbiddenTarget: it is none that can be asked. Where its name leads is looked at when it is asked.
        """
        target = _parsed(url)
        if not target.is_tls and not self.networks:
            raise ForbiddenTarget("the URL of a webhook begins with https://", data={"param": "url"})
        literal = _literal(target.host)
        if literal is not None:
            self.check([literal], is_tls=target.is_tls)
        return target

    async def resolve(self, target: Target, look_up: LookUp) -> list[Address]:
        """The addresses of the target, each of which may be asked. `look_up` is asked where a name leads.

        Raises:
            ForbiddenTarget: one of them may not.
            OSError: the name has no address.
        """
        literal = _literal(target.host)
        if literal is None:
            addresses = await look_up(target.host, target.port)
        else:
            addresses = [literal]
        if not addresses:
            raise OSError("the name has no address")
        self.check(addresses, is_tls=target.is_tls)
        return addresses

    def check(self, addresses: Sequence[Address], *, is_tls: bool) -> None:
        """Raises `ForbiddenTarget`."""
        for address in addresses:
            is_ours = any(address in network for network in self.networks if network.version == address.version)
            if not is_ours and not (is_tls and is_public(address)):
                raise ForbiddenTarget(
                    "the URL of a webhook leads to public addresses over https: ask the operator to allow others "
                    "(RLM_WEBHOOK_NETWORKS)",
                    data={"param": "url"},
                )


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, and no other address hides in it."""
    if isinstance(address, IPv6Address):
        if address in _EMBEDDING:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        hidden = [address.sixtofour, *(address.teredo or ())]
        if address.is_site_local or not all(is_public(each) for each in hidden if each is not None):
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _parsed(url: str) -> Target:
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".").encode("idna").decode()
    except (ValueError, UnicodeError):
        raise _unusable() from None
    is_usable = (
        len(url) <= LONGEST_URL
        and url.isascii()
        and url.isprintable()
        and not any(char in ' "<>\\^`{|}' for char in url)
        and parts.scheme in ("http", "https")
        and bool(host)
        and "%" not in host
        and port != 0
        and "@" not in parts.netloc
        and not parts.fragment
    )
    if not is_usable:
        raise _unusable()
    is_tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host=host, port=port or (443 if is_tls else 80), path=path, is_tls=is_tls)


def _unusable() -> ForbiddenTarget:
    return ForbiddenTarget(
        "expected a URL such as https://example.com/hook, without a user name or a fragment", data={"param": "url"}
    )
