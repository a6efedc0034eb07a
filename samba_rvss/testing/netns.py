"""A network namespace behind a link of its own, which can be cut.

Place: a rig for tests; it stands on pyroute2. Contract: entering makes the namespace, a pair of
virtual Ethernet devices into it and an address at each end; leaving removes them all. While the
link is cut, neither end hears of the other: connections over it stay established.
"""

import errno
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute, NetlinkError, netns

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import run
from samba_rvss.testing.undoing import Undoing

T = TypeVar("T")

LENGTH = 30
"""Prefix length of the addresses: a network of two."""

_SECONDS = 30.0

# linux/tcp.h, TCP_ESTABLISHED
_ESTABLISHED = "01"


class Link(Undoing):
    """A context manager: a network namespace and the link to it.

    Attributes:
        namespace: its name, for `enter`.
        address: the address of our end.
        inside: the address of the other end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"rvss-{secrets.token_hex(4)}"
        self.address = self.inside = ""
        self._ours = f"rv{secrets.token_hex(4)}"
        self._theirs = f"{self._ours}x"

    def _set_up(self) -> None:
        # pyroute2's own way forks, which a process with threads must not.
        run(["ip", "netns", "add", self.namespace], timeout=_SECONDS)
        self._undo.callback(netns.remove, self.namespace)
        with IPRoute() as route:
            peer = {"ifname": self._theirs, "net_ns_fd": self.namespace}
            route.link("add", ifname=self._ours, kind="veth", peer=peer)
            self._undo.callback(self._remove)
            self._number(route)
        _within(self.namespace, lambda: _bring_up(self._theirs, self.inside))

    def _number(self, route: IPRoute) -> None:
        """Give both ends addresses out of a network that is not in use here.

        198.18.0.0/15 is for tests of networks (RFC 2544) and routed nowhere.
        """
        taken = {str(address.get_attr("IFA_ADDRESS")) for address in route.get_addr()}
        while not self.address or self.address in taken:
            start = f"198.18.{secrets.randbelow(256)}"
            last = 4 * secrets.randbelow(64)
            self.address, self.inside = f"{start}.{last + 1}", f"{start}.{last + 2}"
        _bring_up(self._ours, self.address)

    def _remove(self) -> None:
        with IPRoute() as route:
            for index in route.link_lookup(ifname=self._ours):
                route.link("del", index=index)

    def cut(self) -> None:
        """Cut the link: what is sent goes nowhere, and nobody is told."""
        self._set("down")

    def mend(self) -> None:
        """Undo `cut`."""
        self._set("up")

    def _set(self, state: str) -> None:
        def change() -> None:
            with IPRoute() as route:
                (index,) = route.link_lookup(ifname=self._theirs)
                route.link("set", index=index, state=state)

        _within(self.namespace, change)

    def established(self, port: int = 445) -> int:
        """Return how many connections to a port of our end are established for our kernel."""
        ours, theirs = _hexadecimal(self.address), _hexadecimal(self.inside)
        count = 0
        for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if state == _ESTABLISHED and local == f"{ours}:{port:04X}":
                count += remote.partition(":")[0] == theirs
        return count


def enter(namespace: str) -> None:
    """Move the calling thread, and the processes that it starts, into a network namespace.

    Raises:
        RvssError: NOT_FOUND if there is none of that name.
    """
    try:
        netns.setns(namespace)
    except OSError as exc:
        raise RvssError(
            Problem.NOT_FOUND, f"cannot enter the network namespace {namespace}: {exc.strerror}"
        ) from exc


def _within(namespace: str, function: Callable[[], T]) -> T:
    """Call a function in a thread that has entered a namespace, and return its result."""
    found: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            enter(namespace)
            found.append(function())
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failed.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def _bring_up(interface: str, address: str) -> None:
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=interface)
        try:
            route.addr("add", index=index, address=address, prefixlen=LENGTH)
        except NetlinkError as exc:
            if exc.code != errno.EEXIST:
                raise
        route.link("set", index=index, state="up")


def _hexadecimal(address: str) -> str:
    """Return an IPv4 address as /proc/net/tcp has it on this machine (proc(5))."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"
