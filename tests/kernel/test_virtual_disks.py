"""Virtual disks of qemu-img, and those made by hand, are read as libvhdi reads them."""

import os
import subprocess
from pathlib import Path

import pytest
import pyvhdi

from samba_rvss.hyperv import survey
from samba_rvss.hyperv.disk import Disk, State
from samba_rvss.kernel import files
from tests import virtual_disks as disks

PARENT = "0F2C4D64-6A5C-4B43-9C5C-1F7B3E0A9D11"
OTHER = "7B1D7B2E-3A49-4C69-8C3E-5C0E5E6F7A22"


def _both(path: Path) -> tuple[Disk, pyvhdi.file]:
    oracle = pyvhdi.file()
    oracle.open(str(path))
    with files.opened(os.open(path.parent, files.DIRECTORY)) as root:
        return survey.look(root, os.fsencode(path.name)), oracle


@pytest.mark.parametrize(
    ("name", "form", "options"),
    [
        ("dynamic.vhdx", "vhdx", []),
        ("fixed.vhdx", "vhdx", ["-o", "subformat=fixed"]),
        ("blocks.vhdx", "vhdx", ["-o", "block_size=1M"]),
        ("dynamic.vhd", "vpc", []),
        ("fixed.vhd", "vpc", ["-o", "subformat=fixed"]),
    ],
)
def test_disks_of_qemu(tmp_path: Path, name: str, form: str, options: list[str]) -> None:
    path = tmp_path / name
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *options, path, "32M"], check=True)
    found, oracle = _both(path)
    assert (found.state, found.why, found.is_child) == (State.WHOLE, "", False)
    assert found.size == oracle.get_media_size()
    assert found.identity == oracle.get_identifier().upper()


def test_a_child(tmp_path: Path) -> None:
    path = tmp_path / "child.avhdx"
    disks.child(path, PARENT, r"..\base.vhdx", identity=OTHER)
    found, oracle = _both(path)
    assert (found.state, found.is_child, found.identity) == (State.WHOLE, True, OTHER)
    assert found.linkage == (oracle.get_parent_identifier().upper(),) == (PARENT,)
    assert found.names[0] == r"..\base.vhdx"
    assert oracle.get_parent_filename() in found.names


def test_a_child_of_the_older_format(tmp_path: Path) -> None:
    path = tmp_path / "child.avhd"
    disks.make_older(path, OTHER, PARENT, "base.vhd")
    found, oracle = _both(path)
    assert (found.state, found.size) == (State.WHOLE, oracle.get_media_size())
    assert found.identity == oracle.get_identifier().upper() == OTHER
    assert found.linkage == (oracle.get_parent_identifier().upper(),) == (PARENT,)
    assert found.names == (oracle.get_parent_filename(),) == ("base.vhd",)
