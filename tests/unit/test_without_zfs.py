"""On a machine without OpenZFS, its provider is there and does nothing."""

import os
from pathlib import Path

import pytest

from samba_rvss.model import Identity, Inventory, Nested
from samba_rvss.providers.all import providers
from samba_rvss.providers.inventory import of_all
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.provider import Zfs


def test_no_program_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "zfs" in [provider.name for provider in providers(Identity(id="x"))]
    zfs = Zfs(Identity(id="x"), Command(search=str(tmp_path)))
    nothing = Inventory(file_systems=frozenset(), images=())
    assert zfs.inventory() == of_all([zfs]) == of_all([]) == nothing
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert zfs.probe(fd, str(tmp_path), Nested.REFUSE, thorough=True) is None
    finally:
        os.close(fd)
    assert caplog.records == []
