"""Previous Versions: where they are, and what an administrator is told if they cannot be seen."""

import os
from collections.abc import Mapping

import pytest

from samba_rvss.copies import advice
from samba_rvss.mounts import previous_directory
from tests.unit.test_conf import Site, share, site

__all__ = ["site"]

pytestmark = pytest.mark.require("smbd")

SHOWN = "    rvss:previous versions = yes\n    vfs objects = shadow_copy2 shell_snap\n"


@pytest.mark.parametrize(
    "name", ["vms", "My VMs", "Архив", "vms$", "a&b (x)", "ελ, b", "x" * 200, "a.b", "20%", "a%D"]
)
def test_previous_versions_are_where_the_manual_says(name: str) -> None:
    directory = previous_directory("/run/x", name)
    if "%" not in name:
        assert directory == f"/run/x/previous/{name}"
    assert os.path.dirname(directory) == "/run/x/previous"


@pytest.mark.parametrize(
    ("one", "two"), [("a/b", "a=2Fb"), ("..", "=2E."), ("a  b", "a b"), ("way-g0-o", "=77ay-g0-o")]
)
def test_no_share_has_the_previous_versions_of_another(one: str, two: str) -> None:
    directories = {previous_directory("/run/x", name) for name in (one, two)}
    assert len(directories) == 2
    for path in directories:
        assert os.path.dirname(os.path.normpath(path)) == "/run/x/previous"


def _advice(site: Site, options: Mapping[str, str], more: str = SHOWN) -> list[str]:
    text = "".join(f"    {name} = {value}\n" for name, value in options.items())
    site.write("", share("My VMs", "/srv/My VMs", more + text))
    return list(advice.on_previous_versions(site.load()))


GOOD = {
    "shadow:snapdir": "/run/samba-rvss/previous/My VMs",
    "shadow:mountpoint": "/srv/My VMs",
}


def test_previous_versions_as_the_manual_has_them(site: Site) -> None:
    assert _advice(site, GOOD) == []
    harmless = {"shadow:localtime": "no", "shadow:format": "@GMT-%Y.%m.%d-%H.%M.%S"}
    linked = {"Shadow: SnapDir": "/var/run/samba-rvss/previous/My VMs/"}
    if os.path.realpath("/var/run") == "/run":
        assert _advice(site, GOOD | harmless | linked) == []
    off = "    rvss:previous versions = no\n"
    assert _advice(site, {}, off) == []
    assert _advice(site, GOOD, off) == [
        (
            "[My VMs] has 'shadow:snapdir = /run/samba-rvss/previous/My VMs', and nothing is there"
            " without 'rvss:previous versions = yes'"
        )
    ]


def test_what_hides_previous_versions_is_told(site: Site) -> None:
    without = "    rvss:previous versions = yes\n    vfs objects = acl_xattr shell_snap\n"
    assert _advice(site, GOOD, without) == [
        (
            "[My VMs] has 'rvss:previous versions = yes', and 'vfs objects' has no shadow_copy2:"
            " nobody sees its Previous Versions; write 'vfs objects = shadow_copy2 acl_xattr"
            " shell_snap'"
        )
    ]
    elsewhere = {"shadow:snapdir": "/run/samba-rvss/previous/My%20VMs", "shadow:localtime": "yes"}
    assert _advice(site, elsewhere) == [
        (
            "[My VMs] has 'shadow:snapdir = /run/samba-rvss/previous/My%20VMs', and its Previous"
            " Versions are elsewhere: write 'shadow:snapdir = /run/samba-rvss/previous/My VMs'"
        ),
        (
            "[My VMs] has no 'shadow:mountpoint', and its Previous Versions begin at its own"
            " directory: write 'shadow:mountpoint = /srv/My VMs'"
        ),
        (
            "[My VMs] has 'shadow:localtime = yes', with which its Previous Versions are not found:"
            " take it out"
        ),
    ]


def test_previous_versions_of_one_directory_are_one(site: Site) -> None:
    options = SHOWN + "    shadow:mountpoint = /srv/vms\n    shadow:snapdir = /run/samba-rvss/"
    site.write("", "".join(share(name, more=f"{options}previous/{name}\n") for name in "ab"))
    assert list(advice.on_previous_versions(site.load())) == [
        (
            "[b] has 'shadow:snapdir = /run/samba-rvss/previous/b', and its Previous Versions are"
            " elsewhere: write 'shadow:snapdir = /run/samba-rvss/previous/a'"
        )
    ]
