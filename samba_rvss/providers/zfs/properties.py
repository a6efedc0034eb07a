"""The properties of what we make on ZFS, each with its reason.

A clone inherits properties from the dataset that it is put into, and none from its origin. So those
that make it behave like the origin are copied, and the rest is fixed. Case sensitivity, Unicode
normalization, UTF-8 names and encryption are part of the data and come along by themselves; quotas
and reservations are not inherited, and a clone has none.
"""

from collections.abc import Mapping

MARK = "org.samba-rvss:mark"
PART = "org.samba-rvss:directory"

COPIED = {
    # Access control: without these, POSIX and NT ACLs are lost in the copy.
    "acltype": "POSIX or NFSv4 ACLs exist only where this says so",
    "xattr": "where extended attributes, and with them vfs_acl_xattr's NT ACLs, are looked for",
    "aclmode": "what chmod does to an ACL while recovery writes",
    "aclinherit": "what a new file inherits while recovery writes",
    # Behaviour towards what recovery writes: as at the origin, or the copy grows differently.
    "recordsize": "a database's page size; another one multiplies what recovery writes",
    "compression": "how what recovery writes is stored",
    "checksum": "how it is protected",
    "dedup": "whether it costs memory for ever",
    "dnodesize": "whether extended attributes of new files fit into their dnode",
    "special_small_blocks": "which device small blocks go to",
    "redundant_metadata": "how often metadata is stored",
    "copies": "how often data is stored",
    "logbias": "how synchronous writes are done",
    "sync": "whether a flush that recovery asks for is one",
    "primarycache": "what is cached: a virtual disk's owner may have said metadata only",
    "secondarycache": "the same for the second level",
    "nbmand": "locking as SMB has it, where the origin uses it",
}
"""Properties that a clone gets from its origin, and why."""

FIXED = {
    "canmount": "noauto",
    "mountpoint": "legacy",
    "atime": "off",
    "exec": "off",
    "setuid": "off",
    "devices": "off",
    "snapdir": "hidden",
    "sharenfs": "off",
    "sharesmb": "off",
    "com.sun:auto-snapshot": "false",
}
"""Properties that are the same on every clone, so that what it could inherit does not matter."""

OUTERMOST = {"readonly": "off"}
"""A further property of the outermost clone; nested clones inherit it, also when it is sealed."""

SEALED = {"readonly": "on"}
"""That property where the outermost clone is never to be written to."""

INHERITED = {**{key: text for key, text in FIXED.items() if key != "canmount"}, **OUTERMOST}
"""What a clone inherits from its container. Nothing mounts a clone by itself whose mountpoint is
legacy, whatever canmount says, and that is not inherited (zfsprops(7))."""

CONTAINER = "org.samba-rvss:container"
"""What a container of ours bears: the guid of the dataset whose clones it is for."""

LOCAL = {"canmount": "off"}
"""A further property of a container, which its clones do not inherit."""

OF_HOME = {
    "canmount": "off",
    "mountpoint": "none",
    "com.sun:auto-snapshot": "false",
    "sharenfs": "off",
    "sharesmb": "off",
    "syncoid:sync": "false",
}
"""The properties of the dataset that all clones are in: no engine's round takes them along."""


def options(properties: Mapping[str, str]) -> list[str]:
    """Return properties as zfs(8) wants them on its command line."""
    return [word for name, value in properties.items() for word in ("-o", f"{name}={value}")]
