"""The self-test of ``samba-rvss doctor``: what it may leave, and that it comes to its end."""

import os
import signal
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.cli.doctor import client, probe
from samba_rvss.cli.doctor.check import Severity
from samba_rvss.errors import RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Nested, Phase, ShadowCopy, Share
from samba_rvss.samba.conf import Config
from tests.unit.values import CONFIG, SHARE_PATH, copy_of


def _share_with(tmp_path: Path, *copies: ShadowCopy) -> Config:
    config = replace(CONFIG, state_directory=str(tmp_path))
    with closing(Ledger(config.ledger)) as ledger:
        for copy in copies:
            ledger.add(copy, "create")
    return config


def test_what_a_self_test_may_have_left_is_named(tmp_path: Path) -> None:
    share = Share(name="VMs", path=SHARE_PATH, nested=Nested.REFUSE)
    before = copy_of("20240229T235959Z-0123abcd", Phase.SEALED)
    other = replace(copy_of("20240229T235959Z-00000001", Phase.OPEN), share_path="/srv/other")
    came = copy_of("20240229T235959Z-4567cdef", Phase.OPEN)
    assert (
        "which one is not known"
        in probe.perhaps_left(
            replace(CONFIG, state_directory=str(tmp_path / "none")), share, {}
        ).what
    )
    config = _share_with(tmp_path, before, other)
    assert (
        "may be left: none is recorded yet" in probe.perhaps_left(config, share, {before.id}).what
    )
    _share_with(tmp_path, came)
    told = probe.perhaps_left(config, share, {before.id})
    assert f"may be left: {came.id}, which came meanwhile" in told.what
    assert (told.severity, told.share) == (Severity.ERROR, "VMs")
    assert "which one is not known" in probe.perhaps_left(config, share, None).what


def test_the_last_backup_is_not_removed_with_a_self_test() -> None:
    mine, real, another = (copy_of(name, Phase.KEPT) for name in "abc")
    for is_last, before, after in (
        (True, [real], [mine]),
        (True, [real], [mine, replace(another, phase=Phase.SEALED)]),
        (False, [real], [mine, real]),
        (False, [real], [mine, another]),
        (False, [], [mine]),
        (False, [real], []),
        (False, [real], [replace(mine, phase=Phase.SEALED)]),
    ):
        known = [{copy.id: copy for copy in found} for found in (before, after)]
        assert probe.is_last("a", *known) is is_last, (before, after)


def test_a_self_test_is_not_interrupted(capfd: pytest.CaptureFixture[str]) -> None:
    with probe.to_the_end():
        os.kill(os.getpid(), signal.SIGINT)
    assert "removes its shadow copy first" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_self_test_has_time_left_for_deleting() -> None:
    client.require_time(time.monotonic() + 60.0)
    with pytest.raises(RvssError, match="has taken so long"):
        client.require_time(time.monotonic() - 1.0)
