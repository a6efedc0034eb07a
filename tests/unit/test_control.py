"""What samba-dcerpcd says of its workers, as each Samba words it."""

import pytest

from samba_rvss.samba.control import connections

SAMBA_4_17 = """\
/usr/libexec/samba/rpcd_winreg: active_workers=1
 worker[0]: pid=7, num_clients=3
/usr/libexec/samba/rpcd_fsrvp: active_workers=2
 worker[0]: pid=18903, num_clients=1
 worker[3]: pid=18904, num_clients=0
/usr/libexec/samba/rpcd_classic: active_workers=0
"""
SAMBA_4_22 = """\
/usr/libexec/samba/rpcd_winreg: active_workers=1
 worker[0]: pid=7, num_associations=3, num_connections=3
/usr/libexec/samba/rpcd_fsrvp: active_workers=2
 worker[0]: pid=18903, num_associations=2, num_connections=1
 worker[3]: pid=18904, num_associations=0, num_connections=0
/usr/libexec/samba/rpcd_classic: active_workers=0
"""


@pytest.mark.parametrize("said", [SAMBA_4_17, SAMBA_4_22], ids=["4.17", "4.22"])
def test_connections(said: str) -> None:
    assert connections(said) == {18903: 1, 18904: 0}


@pytest.mark.parametrize("said", ["", "/usr/libexec/samba/rpcd_fsrvp: active_workers=0\n", "?"])
def test_no_connections(said: str) -> None:
    assert connections(said) == {}
