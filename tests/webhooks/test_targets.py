"""Which addresses webhooks may ask."""

from ipaddress import ip_address, ip_network

import pytest

from service.ids import TenantId
from service.webhooks.lookups import Address, Lookups
from service.webhooks.targets import ForbiddenTarget, TargetRules, is_public

pytestmark = pytest.mark.anyio

PUBLIC = ("93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8", "64:ff9b::808:808")
INWARD = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1"),
    *("::1", "::", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
    "2001:0:7f00:1::",
)


async def look_up(host: str, port: int) -> list[Address]:
    return await Lookups().addresses_of(TenantId("default"), host, port)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_asked(address: str) -> None:
    """Over https, in either family."""
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", INWARD)
def test_addresses_that_lead_inward_may_not(address: str) -> None:
    """Loopback, private, link-local (where clouds keep credentials), shared, reserved, and each of them inside another
    address."""
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ForbiddenTarget):
        TargetRules().parse(f"https://{host}/")


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "ftp://example.com", "http://example.com/", "https://", "https:///path"),
        *(
            "https://user:pw@example.com/",
            "https://@example.com/",
            "https://example.com/#part",
            "https://example.com:0/",
        ),
        *(
            "https://example.com:99999/",
            "https://exa mple.com/",
            "https://example.com/\r\nx: y",
            "https://[::1%25eth0]/",
        ),
        *("https://example.com/ü", "https://example.com/" + "a" * 3000, "https://2130706433/", "https://[::1"),
    ],
)
async def test_a_url_that_is_none_is_refused(url: str) -> None:
    """Other schemes, credentials, fragments, spaces, line ends, and numbers that resolvers take for addresses."""
    rules = TargetRules()
    with pytest.raises(ForbiddenTarget):
        await rules.resolve(rules.parse(url), look_up)


async def test_a_name_is_judged_by_its_addresses() -> None:
    """`localhost` is refused when it is asked, and taken where the operator allows its network."""
    rules = TargetRules()
    target = rules.parse("https://localhost/hook")
    with pytest.raises(ForbiddenTarget):
        await rules.resolve(target, look_up)
    allowed = TargetRules((ip_network("127.0.0.0/8"), ip_network("::1/128")))
    assert await allowed.resolve(allowed.parse("http://localhost:81/hook"), look_up)
    with pytest.raises(ForbiddenTarget):
        allowed.parse("http://8.8.8.8/")  # without TLS only where the operator says so


def test_a_target_keeps_path_and_query() -> None:
    """And names its port where it is not the usual one."""
    target = TargetRules().parse("https://Example.com:8443/a/b?token=1")
    assert (target.host, target.port, target.path, target.authority) == (
        *("example.com", 8443),
        *("/a/b?token=1", "example.com:8443"),
    )
    assert TargetRules().parse("https://example.com").authority == "example.com"
