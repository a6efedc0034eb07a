"""``samba-rvss list --json``: programs read these fields by these names."""

from datetime import UTC, datetime

from samba_rvss.cli.listing import as_data
from samba_rvss.model import Phase, ShadowCopy, Volume


def test_a_volume_is_shown_by_its_key() -> None:
    volume = Volume(
        provider="zfs",
        file_system="a:pool",
        id="10904942806786661919",
        name="a:pool/vms",
        directory="below",
        inode=34,
    )
    copy = ShadowCopy(
        id="a",
        share="vms",
        share_path="/srv/vms",
        volume=volume,
        created=datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC),
        phase=Phase.TAKEN,
        path="/run/a",
    )
    assert list(as_data(copy)["volume"].items()) == [
        ("provider", "zfs"),
        ("file_system", "a:pool"),
        ("key", "zfs:a:pool:10904942806786661919"),
        ("name", "a:pool/vms"),
        ("directory", "below"),
        ("inode", 34),
    ]
