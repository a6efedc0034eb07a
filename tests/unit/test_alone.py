"""File systems that only recovery mounts keep in use, as a mount table shows them."""

from samba_rvss.mounts import alone

RUN = "/run/samba-rvss"
EXPOSED = f"{RUN}/exposed/vms"


def table(*mounts: tuple[str, str, str, str]) -> bytes:
    """Return a mount table with mounts: device, path, kind, source."""
    return "".join(
        f"{number} 1 {device} / {target} rw shared:1 - {kind} {source} rw\n"
        for number, (device, target, kind, source) in enumerate(mounts)
    ).encode()


def test_one_that_is_mounted_is_not_named() -> None:
    raw = table(
        ("0:30", "/srv", "btrfs", "/dev/sdb"),
        ("0:25", RUN, "tmpfs", "tmpfs"),
        ("0:30", f"{EXPOSED}/a", "btrfs", "/dev/sdb"),
        ("0:50", "/tank", "zfs", "tank/vms"),
        ("0:51", f"{EXPOSED}/b", "zfs", "tank/samba-rvss/b"),
    )
    assert alone.found(RUN, raw) == {}


def test_one_whose_own_mount_has_gone() -> None:
    raw = table(
        ("8:1", "/", "ext4", "/dev/sda"),
        ("0:30", f"{EXPOSED}/b", "btrfs", "/dev/sdb"),
        ("0:30", f"{EXPOSED}/a", "btrfs", "/dev/sdb"),
        ("0:30", f"{EXPOSED}/a", "btrfs", "/dev/sdb"),  # the writable layer
        ("0:30", f"{EXPOSED}/a/inner", "btrfs", "/dev/sdb"),
        ("0:30", f"{RUN}/previous/vms/@GMT-2026.11.26-05.00.00", "btrfs", "/dev/sdb"),
        ("0:51", f"{EXPOSED}/c", "zfs", "tank/samba-rvss/c"),
        ("0:52", f"{EXPOSED}/d", "zfs", "tank/samba-rvss/d"),
    )
    assert alone.found(RUN, raw) == {
        "/dev/sdb": alone.Holders(copies=("a", "b")),
        "tank": alone.Holders(copies=("c", "d")),
    }


def test_one_that_only_shows_backups() -> None:
    raw = table(
        ("0:30", f"{RUN}/backups/x/vms", "btrfs", "/dev/sdb"),
        ("0:30", f"{RUN}/backups/x/vms/inner", "btrfs", "/dev/sdb"),
        ("0:31", f"{RUN}/backups/y/logs", "btrfs", "/dev/sdc"),
        ("0:31", f"{EXPOSED}/a", "btrfs", "/dev/sdc"),
        ("0:52", f"{RUN}/backups/z/vms", "zfs", "tank/samba-rvss/z"),
        ("0:53", "/tank", "zfs", "tank"),
        ("0:54", f"{RUN}/backups/v/vms", "zfs", "pool@rvss-v"),
        ("0:55", f"{RUN}/backups/w/vms", "zfs", "pool/vms@rvss-w"),
    )
    assert alone.found(RUN, raw) == {
        "pool": alone.Holders(backups=("v", "w")),
        "/dev/sdb": alone.Holders(backups=("x",)),
        "/dev/sdc": alone.Holders(copies=("a",), backups=("y",)),
    }


def test_one_that_only_an_exposed_backup_keeps_in_use() -> None:
    raw = table(("0:30", f"{RUN}/shared/vms/a", "btrfs", "/dev/sdb"))
    assert alone.found(RUN, raw) == {"/dev/sdb": alone.Holders(shared=("a",))}
