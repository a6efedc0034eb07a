"""``samba-rvss metrics``, judged by Prometheus' parsers of OpenMetrics and of the older text."""

import json
import os
import re
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser as older
from prometheus_client.openmetrics import parser as openmetrics

from samba_rvss import cli
from samba_rvss.cli import metrics, standing
from samba_rvss.cli.openmetrics import Gauge, render
from samba_rvss.copies.backup import OfShare
from samba_rvss.errors import Problem
from samba_rvss.ledger import Ledger
from samba_rvss.model import Moment, Phase
from samba_rvss.text import printable
from tests.unit.test_healing_commands import COPY, EMPTY, NOW, looked
from tests.unit.values import copy_of

if TYPE_CHECKING:
    from tests.unit.conftest import Resting

PACKAGING = Path(__file__).parents[2] / "packaging"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """Return the samples of a text by name and labels; both parsers must say the same."""
    found = [
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(text)
            for sample in family.samples
        }
        for parse in (
            openmetrics.text_string_to_metric_families,
            older.text_string_to_metric_families,
        )
    ]
    assert found[0] == found[1]
    return found[0]


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return the only sample that has a name and these labels among its own."""
    (found,) = (
        value
        for (known, theirs), value in samples.items()
        if known == f"samba_rvss_{name}" and theirs >= labels.items()
    )
    return found


@given(st.text())
def test_whatever_a_share_is_called(name: str) -> None:
    gauge = Gauge(name="a_seconds", help="What.", unit="seconds", samples=(({"share": name}, 1.5),))
    text = render([gauge], {"configuration": "c"})
    assert text.count("\n") == 5
    (((known, labels), found),) = parsed(text).items()
    assert (known, found) == ("a_seconds", 1.5)
    assert dict(labels) == {"configuration": "c", "share": printable(name)}


def test_what_is_written_alike_comes_once() -> None:
    """node_exporter drops a file in which a sample comes twice."""
    alike = ("a\n", "a\\n")
    shares = [
        OfShare(share=name, count=2 + n, newest=NOW - timedelta(days=n), warn_age=None, here_only=0)
        for n, name in enumerate(alike)
    ]
    there = looked()
    judged = replace(standing.standing(there, {}), backups=tuple(shares))
    text = render(metrics.of_instance(there, judged), {})
    samples = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(set(samples)) == len(samples)
    told = parsed(text)
    assert value(told, "backups", share="a\\n") == 5
    oldest = NOW - timedelta(days=1)
    assert value(told, "newest_backup_timestamp_seconds", share="a\\n") == oldest.timestamp()


@pytest.mark.require("root", "smbd")
def test_without_a_daemon(resting: "Resting", capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with closing(Ledger(resting.ledger)) as ledger:
        copy = ledger.get(resting.copy)
        assert copy is not None
        ledger.change(copy, "taken", duration=0.25)
        ledger.note_share("vms", "no room")
    assert cli.main(["-s", str(resting.configuration), "metrics"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert text.endswith("\n# EOF\n")
    told = parsed(text)
    assert all(labels >= {("configuration", str(resting.configuration))} for _, labels in told)
    assert (value(told, "collected"), value(told, "daemon_up"), value(told, "healthy")) == (1, 0, 0)
    assert value(told, "copies", share="vms", phase="sealed") == 1
    assert value(told, "copies", share="vms", phase="open") == 0
    assert value(told, "oldest_copy_timestamp_seconds", share="vms") == copy.created.timestamp()
    assert value(told, "newest_backup_timestamp_seconds", share="vms") == copy.created.timestamp()
    assert value(told, "backups", share="vms") == 1
    assert value(told, "last_create_duration_seconds", share="vms") == 0.25
    assert value(told, "failures_last_day", share="vms", event="no room") == 1
    assert value(told, "failures_last_day", share="vms", event="not taken") == 0
    assert value(told, "failures_last_day", share="", event="aborted") == 1
    assert not any("last_reconcile" in name for name, _ in told)


def test_with_a_daemon() -> None:
    found = {"mount /a": Moment(boot="b", seconds=1.0), "mount /b": Moment(boot="b", seconds=1.0)}
    there = looked(plan=replace(EMPTY, findings=found))
    judged = standing.standing(there, {})
    told = parsed(render(metrics.of_instance(there, judged), {}))
    assert (value(told, "daemon_up"), value(told, "healthy"), value(told, "wrong")) == (1, 1, 0)
    assert value(told, "orphans", what="mount") == 2
    assert value(told, "orphans", what="image") == 0
    assert value(told, "last_reconcile_timestamp_seconds") == NOW.timestamp()
    assert value(told, "samba_sets", state="recovered") == 1
    assert value(told, "oldest_copy_timestamp_seconds", share="VMs") == COPY.created.timestamp()
    assert value(told, "unsealed_longest_seconds") == 0
    late = looked(replace(there.seen, copies=(replace(COPY, phase=Phase.SEALING),)))
    told = parsed(render(metrics.of_instance(late, standing.standing(late, {})), {}))
    assert (value(told, "unsealed"), value(told, "unsealed_longest_seconds")) == (1, 100)
    assert value(told, "copies", share="VMs", phase="sealing") == 1


@pytest.mark.require("root", "smbd")
def test_a_file_is_replaced_in_one_step(
    resting: "Resting", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-s", str(resting.configuration), "metrics", "-o"]
    file = tmp_path / "samba-rvss.prom"
    file.write_text("what was there before")
    before = file.open()
    assert cli.main([*words, str(file)]) == 0
    with before:
        assert before.read() == "what was there before"
    assert value(parsed(file.read_text()), "collected") == 1
    assert (os.listdir(tmp_path), file.stat().st_mode & 0o777) == ([file.name], 0o644)

    # What could not be seen is no old truth, but said; and the command fails.
    resting.configuration.write_text("[global]\nrvss:nonsense = yes\n")
    assert cli.main([*words, str(file)]) == Problem.CONFIG
    assert {name for name, _ in parsed(file.read_text())} == {
        f"samba_rvss_{name}"
        for name in ("version_info", "collected", "collected_timestamp_seconds")
    }
    assert value(parsed(file.read_text()), "collected") == 0
    (tmp_path / "link").symlink_to(file)
    for other in ("/dev/null", str(tmp_path), str(tmp_path / "link")):
        assert cli.main([*words, other]) == Problem.USAGE, other
    assert cli.main([*words, str(tmp_path / "none" / "file")]) == Problem.SYSTEM
    assert sorted(os.listdir(tmp_path)) == ["link", file.name]
    assert capsys.readouterr().out == ""


def test_manual_rules_and_dashboard_know_each_metric_and_no_other() -> None:
    there = looked()
    gauges = [
        *metrics.of_collecting(done=True),
        *metrics.of_instance(there, standing.standing(there, {})),
        *metrics.of_history([], {"taken": {}, "sealed": {}}, {}),
    ]
    names = [gauge.name for gauge in gauges]
    assert len(set(names)) == len(names)
    manual = (PACKAGING / "man" / "samba-rvss.8").read_text()
    assert re.findall(r"^\.It Va (samba_rvss_\w+)", manual, re.M) == names
    for file in ("alerts.yml", "dashboard.json"):
        text = (PACKAGING / "monitoring" / file).read_text()
        used = set(re.findall(r"\bsamba_rvss_\w+", text))
        assert sorted(used - set(names)) == [], file
        assert used
    json.loads((PACKAGING / "monitoring" / "dashboard.json").read_text())


def test_a_file_that_is_not_there_is_an_alert() -> None:
    text = (PACKAGING / "monitoring" / "alerts.yml").read_text()
    (rule,) = re.findall(r"alert: SambaRvssUnwatched\n(.*?)\n      - alert:", text, re.S)
    told = r"last_over_time\(samba_rvss_collected_timestamp_seconds\[1d\]\)"
    assert re.search(rf"time\(\) - {told} > \d+", rule), "one that was deleted"
    assert re.search(rf"or absent\({told}\)", rule), "one that never came"


def test_every_failure_that_is_counted_is_one_of_the_ledger_s() -> None:
    """By name, for some are written by rooms that do not name them."""
    package = Path(metrics.__file__).parents[1]
    text = "".join(path.read_text() for path in package.rglob("*.py") if path.name != "metrics.py")
    for what in metrics.failures():
        assert f'"{what}"' in text, what


def test_a_copy_of_no_share_of_ours_is_counted() -> None:
    there = looked()
    other = replace(there.seen, copies=(replace(copy_of("x", Phase.OPEN), share="gone"),))
    look = looked(other)
    told = parsed(render(metrics.of_instance(look, standing.standing(look, {})), {}))
    assert value(told, "copies", share="gone", phase="open") == 1
