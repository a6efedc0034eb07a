"""Shares that are clones of base shares: who may connect is whom the base share lets."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Writers
from samba_rvss.samba import clones, tdb_file
from samba_rvss.samba.clones import Clone
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.registry import UNIX_USER, Amendment
from samba_rvss.testing.smbd import PrivateSmbd

_PLACE = "/run/samba-rvss/shared"
_MORE = "-20261231-230059"


@pytest.fixture
def samba(samba_rig: Callable[..., PrivateSmbd]) -> PrivateSmbd:
    """A Samba that does not run."""
    return samba_rig()


@pytest.fixture
def process() -> Iterator[SambaProcess]:
    """Where python-samba runs."""
    with closing(SambaProcess()) as made:
        yield made


def _clone(base: str, name: str) -> Clone:
    amendment = Amendment(closed=True, base=base, writers=Writers.ANYBODY)
    return Clone(name=name, path=f"{_PLACE}/x/id", comment="a backup", amendment=amendment)


def _words(samba: PrivateSmbd) -> tuple[str, str]:
    return str(samba.configuration), str(samba.state_directory)


def _shown(samba: PrivateSmbd, share: str) -> dict[str, str]:
    lines = samba.net("conf", "showshare", share).splitlines()
    pairs = [line.strip().partition(" =") for line in lines if " =" in line]
    return {key: value.strip() for key, _, value in pairs}


@pytest.mark.parametrize("base", ["vms", "VMs$", "Архив", "\u0130STANBUL"])
def test_a_clone_has_the_descriptor_of_its_base_share(
    samba: PrivateSmbd, process: SambaProcess, base: str
) -> None:
    samba.set_share(base, f"[{base}]\n    path = /srv/x\n")
    stem = base.removesuffix("$")
    clone = _clone(base, f"{stem}{_MORE}{'$' * (base != stem)}")
    file, state = _words(samba)
    for acl in ("S-1-5-32-544:ALLOWED/0x0/READ", "S-1-5-32-545:ALLOWED/0x0/FULL"):
        samba.sharesec(base, f"--replace={acl}")
        assert process.call(clones.outdated, file, state, (clone,)) == (
            (clone.name,) if "545" in acl else ()
        )
        process.call(clones.make, file, state, clone)
        assert acl.split("/")[0] in samba.sharesec(clone.name, "--view")
        assert process.call(clones.outdated, file, state, (clone,)) == ()
    assert process.call(clones.remove, file, state, _PLACE, (clone.name,)) == (
        (clone.name,),
        (clone.name,),
    )
    assert len(tdb_file.settled(f"{state}/share_info.tdb", b"SECDESC/")) == 1
    assert "S-1-5-32-545" in samba.sharesec(base, "--view")


def test_what_holds_for_a_clone(samba: PrivateSmbd, process: SambaProcess) -> None:
    file, state = _words(samba)
    samba.set_share("template", "[template]\n    invalid users = @nogroup\n    rvss:keep = yes\n")
    samba.set_share(
        "vms",
        "[vms]\n    copy = template\n    path = /srv/%S\n    writeable = yes\n    guest ok = yes\n"
        "    vfs objects = shadow_copy2 acl_xattr shell_snap\n    volume = %S\n"
        "    shell_snap:create command = /bin/false\n    shadow:snapdir = x\n"
        '    hosts allow = 127. "10.0.0.1"\n',
    )
    clone = replace(_clone("vms", f"vms{_MORE}"), uid=7)
    process.call(clones.make, file, state, clone)
    shown = _shown(samba, clone.name)
    due = {
        "invalid users": "@nogroup",
        "path": f"{_PLACE}/x/id",
        "read only": "yes",
        "guest ok": "no",
        "valid users": UNIX_USER.format(7),
        "vfs objects": "acl_xattr",
        "volume": "vms",
        "comment": "a backup",
    }
    assert {key: shown.get(key) for key in due} == due
    assert [key for key in shown if key.startswith(("rvss:", "shell_snap:", "shadow:"))] == []
    assert process.call(clones.outdated, file, state, (clone,)) == ()
    assert process.call(clones.present, file, state, _PLACE) == {clone.name: clone.path}
    # It is made anew in its place, and takes nobody else's name or share.
    open_to_more = replace(clone, uid=-1)
    process.call(clones.make, file, state, open_to_more)
    assert "valid users" not in _shown(samba, clone.name)
    for name in ("TEMPLATE", clone.name):
        other = replace(clone, name=name, path=f"{_PLACE}/x/other")
        with pytest.raises(RvssError, match="there is a share") as caught:
            process.call(clones.make, file, state, other)
        assert caught.value.problem is Problem.REFUSED
    samba.net("conf", "addshare", "others", "/srv/others")
    assert process.call(clones.remove, file, state, _PLACE, ("others",)) == ((), ())
    assert _shown(samba, "others")["path"] == "/srv/others"
