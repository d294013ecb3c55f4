"""Which network addresses an executor may ever connect to, whatever the configuration lists."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_Address = IPv4Address | IPv6Address

# Instance metadata outside the link-local range: Alibaba, Azure's wire server, Oracle classic, AWS over IPv6.
_METADATA = frozenset(
    ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_NAT64 = IPv6Network("64:ff9b::/96")


def is_literal(host: str) -> bool:
    """Say whether a host is written as an address and needs no name server."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def refusal(text: str) -> str | None:
    """Give the reason why an address may not be called, or None.

    Loopback and private networks pass: the host itself has to be on the operator's list to come this far.
    """
    address = _unwrapped(ip_address(text.partition("%")[0]))
    if address in _METADATA:
        return "a metadata service"
    if address.is_loopback:
        return None
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified or address.is_reserved:
        return "an unspecified or reserved address"
    return None


def _unwrapped(address: _Address) -> _Address:
    """Give the IPv4 address that an IPv6 one carries, so that a detour changes nothing."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
