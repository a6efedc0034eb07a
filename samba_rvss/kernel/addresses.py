"""Which addresses are this machine's, as the kernel has them.

That one can bind to an address says nothing where ``net.ipv4.ip_nonlocal_bind`` is set, as it is on
the nodes of a failover pair.
"""

import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

# net/ipv4/fib_trie.c, fib_trie_seq_show(): an address; below it, prefix lengths with their types.
_LEAF = re.compile(r"\|-- (\S+)\n((?:\s+/\d+ .*\n?)+)")
_LOCAL = re.compile(r"/(\d+) host LOCAL\b")


def is_local(address: str) -> bool:
    """Return whether an IP address is one of this machine's, in this network namespace.

    Args:
        address: a zone in it is not looked at.
    """
    with suppress(ValueError):
        match ip_address(address.partition("%")[0]):
            case IPv6Address() as found:
                return found in _of_interfaces()
            case IPv4Address() as found:
                return any(found in network for network in _local_routes())
    return False


def _local_routes() -> set[IPv4Network]:
    return {
        IPv4Network(f"{start}/{length}")
        for start, lengths in _LEAF.findall(_read("/proc/net/fib_trie"))
        for length in _LOCAL.findall(lengths)
    }


def _of_interfaces() -> set[IPv6Address]:
    # net/ipv6/addrconf.c, if6_seq_show()
    lines = _read("/proc/net/if_inet6").splitlines()
    return {IPv6Address(int(line.split()[0], 16)) for line in lines}


def _read(path: str) -> str:
    """Return what a file of /proc says; empty where the kernel has no such protocol."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return ""
