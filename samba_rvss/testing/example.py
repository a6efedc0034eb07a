"""What the README tells an administrator to put into smb.conf.

Place: text and nothing that acts. The private Sambas of the tests and of the demonstration are
configured from it, so that what the README says is what has been tested.
"""

HOOK = "/usr/libexec/samba-rvss/hook"

GLOBAL_EXAMPLE = """\
    # Exposed shadow copies are shares that Samba keeps in its registry.
    registry shares = yes
    include = registry
    # One FSRVP worker: several would erase each other's shadow copy sets.
    rpcd_fsrvp:num_workers = 1
    # It forgets the set of a client that has vanished, and that is in the way of all others, after
    # so many seconds without a connection.
    rpcd_fsrvp:idle_seconds = 10
    # Leave "fss: prune stale" alone: with it, rpcd_fsrvp crashes when it starts.
"""

SHARE_EXAMPLE = """\
[{name}]
    path = {path}
    read only = no
    # This line replaces [global]'s: repeat its modules, or those refused by acl_xattr get in.
    vfs objects = acl_xattr shell_snap
    shell_snap:check path command = {hook} check
    shell_snap:create command = {hook} create
    shell_snap:delete command = {hook} delete
"""


def share_section(name: str, path: str, hook: str = HOOK) -> str:
    """Return the section of a share whose shadow copies samba-rvss makes.

    Args:
        name: the share's name.
        path: its directory.
        hook: the callout as it is to be run, with its options.
    """
    return SHARE_EXAMPLE.format(name=name, path=path, hook=hook)


def readme_block(name: str = "vms", path: str = "/srv/vms") -> str:
    """Return the example as the README shows it: a whole smb.conf, with the installed hook."""
    return f"[global]\n{GLOBAL_EXAMPLE}\n{share_section(name, path)}"
