"""A real reboot of a machine on which everything is in use: systemd, smbd, btrfs and ZFS.

Copies in every context and in every state are taken; then the machine reboots in good order, with
Samba's lock directory on a tmpfs, as Debian has it. That happens in the background (`boots`).
"""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.vm import boots, invariants

pytestmark = pytest.mark.require("vm")

SYSTEMS = ("btrfs", "zfs")
LIVING = {"kept", "kept alike"}
"""Labels of the copies whose context is persistent and whose recovery was complete."""


@pytest.fixture(scope="module")
def told(booting: boots.Booting) -> Mapping[str, Any]:
    """What was told before the reboot is in ``taken``, after it in ``found``."""
    return booting.result(boots.REBOOT)


def _copies(told: Mapping[str, Any], *, living: bool) -> list[Mapping[str, Any]]:
    found = [one for one in told["taken"]["copies"] if (one["label"] in LIVING) is living]
    assert {one["system"] for one in found} == set(SYSTEMS)
    return found


def test_it_was_a_reboot_and_all_was_there_before(told: Mapping[str, Any]) -> None:
    before, after = told["taken"]["seen"], told["found"]["first"]
    assert before["boot"] != after["boot"]
    assert before["lock"] == after["lock"] == "tmpfs"
    phases = [copy["phase"] for copy in before["copies"]]
    assert sorted(set(phases)) == ["open", "sealed"]
    kept = len(told["taken"]["kept"])
    assert len(phases) == len(before["mounts"]) == len(before["images"]) - kept == 14
    assert len(before["shares"]) == len(before["descriptors"]) == 12


def test_it_reconciled_before_smbd_started(told: Mapping[str, Any]) -> None:
    units = told["found"]["first"]["units"]
    ready = int(units["samba-rvss.service"]["ActiveEnterTimestampMonotonic"])
    started = int(units["smbd.service"]["ExecMainStartTimestampMonotonic"])
    assert 0 < ready <= started
    lines = re.findall(r"^\[ *([0-9.]+)\] .* reconcile: (.*)$", told["found"]["journal"], re.M)
    did = [(float(seconds), what) for seconds, what in lines]
    for copy in _copies(told, living=True):
        (when,) = (at for at, what in did if what.startswith(f"mount again {copy['id']}"))
        assert when * 1e6 < started
    gone = [what for at, what in did if what.startswith("delete ") and at * 1e6 < started]
    assert len(gone) == 14 - len(_copies(told, living=True))


def test_what_must_live_on_is_where_it_was_and_works(told: Mapping[str, Any]) -> None:
    """At its path, through its share, with its content, and read-only for good."""
    first = told["found"]["first"]
    images = {image["id"]: image["read_only"] for image in first["images"]}
    for copy in _copies(told, living=True):
        content = {**copy["content"], "read_only": True}
        assert first["mounts"][copy["path"]] == content, copy
        served = first["served"][copy["share"]]
        assert served["files"] == content["files"], copy
        assert served["write"] in ("NT_STATUS_MEDIA_WRITE_PROTECTED", "NT_STATUS_ACCESS_DENIED")
        assert images[copy["id"]] is True


def test_backups_are_kept_with_what_was_sealed(told: Mapping[str, Any]) -> None:
    """They are listed, held, and what was sealed; their context is not persistent, and they are."""
    kept, found = told["taken"]["kept"], told["found"]
    assert len(kept) == len(SYSTEMS)
    assert found["wrong"] == []
    before = _facts(told["taken"]["seen"]["backups"])
    assert sorted(before) == sorted(kept)
    for backup in before.values():
        assert backup["mounted"]["files"].keys() == {"name", "data", "recovered"}
        assert (backup["consistent"], backup["tags"]) == (True, ["carried"])
    assert _facts(found["settled"]["backups"]) == before
    assert _facts(found["without ledger"]) == before


def _facts(backups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is said of backups, by their ids, but for what changes by itself."""
    changing = ("size", "parts")
    return {b["id"]: {k: v for k, v in b.items() if k not in changing} for b in backups}


def test_all_others_are_gone_everywhere(told: Mapping[str, Any]) -> None:
    """Images, clones, holds, mounts, directories, shares, descriptors and records."""
    settled = told["found"]["settled"]
    assert invariants.leaks(settled) == []
    living = [one["id"] for one in _copies(told, living=True)]
    assert sorted(copy["id"] for copy in settled["copies"]) == sorted(living)
    assert not settled["sets"]


def test_it_is_healthy_and_a_fresh_set_succeeds(told: Mapping[str, Any]) -> None:
    assert told["found"]["settled"]["status"]["healthy"], told["found"]["settled"]["status"]
    assert [one["system"] for one in told["found"]["fresh"]] == list(SYSTEMS)
    after = told["found"]["after"]
    assert invariants.leaks(after) == []
    assert after["status"]["healthy"], after["status"]
