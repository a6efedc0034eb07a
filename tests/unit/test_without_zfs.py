"""On a machine without OpenZFS, its provider is there and does nothing."""

import os
from pathlib import Path

import pytest

from samba_rvss import run
from samba_rvss.model import Inventory, Nested
from samba_rvss.providers.all import providers


def test_no_program_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "_PATH", str(tmp_path))
    run.tool.cache_clear()
    (zfs,) = [provider for provider in providers("/run/x") if provider.name == "zfs"]
    assert zfs.inventory() == Inventory(file_systems=frozenset(), images=())
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert zfs.probe(fd, str(tmp_path), Nested.REFUSE, thorough=True) is None
    finally:
        os.close(fd)
    assert caplog.records == []
