"""Telling the service manager how the daemon stands (sd_notify(3)), without ever waiting for it.

sd_notify of libsystemd waits while the manager takes nothing, for ever if it stands still; the
event loop must not. Contract: nothing here blocks or fails; whoever has to be heard asks again.
"""

import os
import socket

READY, STOPPING, WATCHDOG = "READY=1", "STOPPING=1", "WATCHDOG=1"


def tell(state: str) -> bool:
    """Send the manager a state.

    Returns:
        Whether there is nothing more to be done: it has it, or there is no manager to tell.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):  # of others systemd tells virtual machines only
        return True
    if address.startswith("@"):  # unix(7): an abstract name
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.sendto(state.encode("ascii"), socket.MSG_DONTWAIT, address)
    except (OSError, ValueError):
        return False
    return True
