"""Reading the exposed shares from Samba's registry: as Samba itself has them, and many at once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from samba_rvss.samba import registry
from samba_rvss.samba.parser import exposed_copy
from samba_rvss.samba.process import SambaProcess
from samba_rvss.testing.smbd import PrivateSmbd

GUID = "0f0e0d0c-0b0a-0908-0706-05040302010"


@pytest.fixture
def samba(samba_rig: Callable[..., PrivateSmbd]) -> PrivateSmbd:
    """A Samba that does not run."""
    return samba_rig()


@pytest.fixture
def process() -> Iterator[SambaProcess]:
    """Where python-samba runs."""
    one = SambaProcess()
    yield one
    one.close()


def exposed(samba: PrivateSmbd, process: SambaProcess) -> dict[str, str]:
    """Return what is read."""
    state = str(samba.state_directory)
    return process.call(registry.exposed_shares, str(samba.configuration), state)


@pytest.mark.parametrize("name", ["vms", "VMs (1) & more", "Ünïcødé", "groß", "\u0131", "日本"])
def test_paths_are_read_as_samba_has_them(
    samba: PrivateSmbd, process: SambaProcess, name: str
) -> None:
    share = f"{name}@{{{GUID}1}}"
    samba.net("conf", "addshare", share, f"/run/{name}")
    samba.net("conf", "setparm", share, "comment", "before and after")
    samba.net("conf", "addshare", f"{name}@other", "/run/other")
    assert exposed(samba, process) == {share: f"/run/{name}"}


def test_a_share_without_a_path(samba: PrivateSmbd, process: SambaProcess) -> None:
    share = f"vms@{{{GUID}1}}"
    samba.net("conf", "addshare", share, "/run/vms")
    samba.net("conf", "delparm", share, "path")
    assert exposed(samba, process) == {share: ""}


def test_a_registry_without_shares(samba: PrivateSmbd, process: SambaProcess) -> None:
    assert exposed(samba, process) == {}


@pytest.mark.parametrize("name", ["vms", "\u0131"])
def test_what_is_not_in_the_form_that_we_know_is_asked_for(
    samba: PrivateSmbd, process: SambaProcess, tmp_path: Path, name: str
) -> None:
    """A cluster has its registry elsewhere."""
    share = f"{name}@{{{GUID}1}}"
    samba.net("conf", "addshare", share, "/run/vms")
    found = process.call(registry.exposed_shares, str(samba.configuration), str(tmp_path))
    assert found == {share: "/run/vms"}


@pytest.mark.parametrize("name", ["VMs", "İSTANBUL", "ΑΡΧΕΙΟΣ", "STRAẞE", "ǅ", "ΩK", "Ünï"])
def test_descriptors_are_found_whatever_samba_calls_them(
    samba: PrivateSmbd, process: SambaProcess, name: str
) -> None:
    """Samba puts a share's name into lower case with tables of its own."""
    ours, other = f"{name}@{{{GUID}1}}", f"{name}@{{{GUID}2}}"
    for share in (name, ours, other):
        samba.net("conf", "addshare", share, "/run/vms")
        samba.sharesec(share, "--replace=S-1-1-0:ALLOWED/0/READ")
    state = str(samba.state_directory)

    def found() -> set[str]:
        return {exposed_copy(share) for share in process.call(registry.exposed_descriptors, state)}

    assert found() == {f"{GUID}1", f"{GUID}2"}
    assert process.call(registry.remove_security, state, [ours]) == (ours,)
    assert found() == {f"{GUID}2"}
    assert process.call(registry.remove_security, state, [ours]) == ()
    (left,) = process.call(registry.exposed_descriptors, state)
    assert process.call(registry.remove_security, state, [left]) == (left,)
