"""What the share of a backup is called."""

from dataclasses import replace
from datetime import timedelta

from samba_rvss.copies.base import name_of
from samba_rvss.model import Share
from tests.unit.values import NOW, copy_of

VMS = Share(name="VMs", path="/srv/vms")


def test_each_backup_of_a_share_has_a_name_of_its_own() -> None:
    taken = [copy_of(f"{number}", created=NOW - timedelta(seconds=number)) for number in range(2)]
    assert [name_of(copy, VMS, writable=False) for copy in taken] == [
        "VMs-20240229-235959",
        "VMs-20240229-235958",
    ]
    assert name_of(taken[0], VMS, writable=True) == "VMs-20240229-235959-rw"


def test_a_hidden_share_stays_hidden() -> None:
    hidden = replace(VMS, name="VMs$")
    assert name_of(copy_of("a"), hidden, writable=True) == "VMs-20240229-235959-rw$"
