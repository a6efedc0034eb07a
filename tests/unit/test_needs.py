"""What smb.conf says that breaks or limits Remote VSS, each with its reason and what to write."""

import math

import pytest

from samba_rvss.model import Advice
from samba_rvss.samba import needs
from samba_rvss.samba.clocks import clocks
from samba_rvss.samba.conf import Config
from tests.unit.test_conf import Site, section, share, site

__all__ = ["site"]

GOOD = {
    "registry shares": "yes",
    "rpcd_fsrvp:num_workers": "1",
    "rpcd_fsrvp:idle_seconds": "10",
}
MEMBER = "ROLE_DOMAIN_MEMBER"
INCLUDE = ("include", "registry")


def _breaking(role: str = MEMBER, **more: str) -> list[Advice]:
    return list(needs.breaking(GOOD | more, role))


def test_what_breaks_says_why_and_what_to_write() -> None:
    assert _breaking() == []
    (role,) = _breaking("ROLE_ACTIVE_DIRECTORY_DC")
    assert (role.check, role.write) == (
        "domain-controller",
        "have a member server serve the shares",
    )
    (registry,) = _breaking(**{"registry shares": "no"})
    assert registry == Advice(
        check="registry",
        what="'registry shares' is off in [global]",
        why="Samba cannot expose shadow copies",
        write="set 'registry shares = yes' and 'include = registry'",
    )
    assert registry.line() == (
        "'registry shares' is off in [global]: Samba cannot expose shadow copies;"
        " set 'registry shares = yes' and 'include = registry'"
    )
    (workers,) = _breaking(**{"rpcd_fsrvp:num_workers": "2"})
    assert (workers.check, "erase each other's" in workers.why) == ("workers", True)
    (idle,) = _breaking(**{"rpcd_fsrvp:idle_seconds": "60"})
    assert (idle.check, "refuses all others" in idle.why) == ("idle", True)
    (stale,) = _breaking(**{"fss:prune stale": "yes"})
    assert (stale.check, stale.why) == ("prune-stale", "it crashes rpcd_fsrvp")


def test_the_registry_is_opened_where_its_line_stands() -> None:
    """Samba looks for it in the directories that stand before that line."""
    before = [("lock directory", "/l"), ("State Directory", "/s"), INCLUDE, ("log level", "1")]
    assert list(needs.order(before)) == []
    after = [("lock directory", "/l"), INCLUDE, ("State Directory", "/s"), ("privatedir", "/p")]
    (advice,) = needs.order(after)
    assert advice.check == "registry"
    both = "'State Directory = /s' and 'privatedir = /p'"
    assert advice.what == f"{both} stand below 'include = registry' in [global]"
    assert "another Samba's" in advice.why
    assert advice.write == f"move {both} above 'include = registry'"
    assert list(needs.order([("state directory", "/s")])) == []


@pytest.mark.parametrize(
    ("timeout", "said"),
    [("0", "never lets a client's time run out"), ("30", "gives clients less than the 180")],
)
def test_the_time_that_samba_gives_clients(timeout: str, said: str) -> None:
    name = "fss:sequence timeout"
    (advice,) = needs.limiting(GOOD | {name: timeout}, [INCLUDE])
    assert (advice.check, said in advice.what) == ("sequence", True)
    assert list(needs.limiting(GOOD | {name: "180"}, [INCLUDE])) == []
    assert math.isinf(clocks({name: "0"}).short)


def test_without_including_the_registry() -> None:
    (advice,) = needs.limiting(GOOD, [("registry shares", "yes")])
    assert (advice.check, "include = registry" in advice.write) == ("include", True)
    assert list(needs.limiting(GOOD, [("config backend", "Registry")])) == []
    assert list(needs.limiting({"registry shares": "no"}, [])) == []


def _checks(config: Config) -> list[str]:
    return [advice.check for advice in config.advice]


@pytest.mark.require("smbd")
def test_the_order_in_a_file_and_in_what_it_includes(site: Site) -> None:
    """What stands in an included file stands where that is included."""
    more = site.directory / "more.conf"
    more.write_text("    include = registry\n")
    site.write("", share("vms"))
    assert _checks(site.load()) == []
    site.write(f"    registry shares = yes\n    include = {more}\n", share("vms"), registry=False)
    assert _checks(site.load()) == []
    state = f"    state directory = {site.directory}/state\n"
    site.write(
        f"    registry shares = yes\n    include = {more}\n{state}", share("vms"), registry=False
    )
    config = site.load()
    assert _checks(config) == ["registry"]
    assert "stands below 'include = registry'" in config.warnings[0]


@pytest.mark.require("smbd")
def test_what_a_share_has_to_mend(site: Site) -> None:
    """Each obstacle with its check, beside the one sentence that other commands show."""
    site.write(
        "    vfs objects = acl_xattr\n",
        share("a", more="    vfs objects = snapper acl_xattr shell_snap\n    frobnicate = 1\n")
        + share("b", "/srv/b", "    rvss:nested = maybe\n    vfs objects = acl_xattr shell_snap\n")
        + share("c", '"/srv/%D/x"', "    vfs objects = acl_xattr shell_snap\n")
        + share("d", "/srv/d", "    vfs objects = acl_xattr\n")
        + share("e", "/srv/e", hook="/usr/local/bin/other")
        + share("f", "/srv/f"),
    )
    config = site.load()
    found = {
        name: [advice.check for advice in section(config, name).obstacles] for name in "abcdef"
    }
    assert found == {
        "a": ["shadowed", "expose"],
        "b": ["options"],
        "c": ["names"],
        "d": ["callouts"],
        "e": ["callouts"],
        "f": [],
    }
    (callouts,) = section(config, "d").obstacles
    assert callouts.write == "write 'vfs objects = acl_xattr shell_snap'"
    (callouts,) = section(config, "e").obstacles
    assert "'shell_snap:check path command = /usr/libexec/samba-rvss/hook check'" in callouts.write
    for name in ("a", "b"):
        share_, told = config.share(name), section(config, name).obstacles
        assert share_ is not None
        assert all(advice.what in share_.obstacle for advice in told)
    lacking = {advice.share: advice for advice in config.advice if advice.check == "modules"}
    assert list(lacking) == ["f"]
    assert lacking["f"].write.endswith("'vfs objects = acl_xattr shell_snap'")
