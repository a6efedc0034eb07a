"""Shares of one directory: what holds for its copies, and what an administrator is told of it."""

from dataclasses import replace

import pytest

from samba_rvss.copies import exposed
from samba_rvss.model import Keep, Nested, Share
from samba_rvss.samba import twins
from samba_rvss.samba.conf import Config, find_share
from samba_rvss.samba.sections import Section
from tests.unit.test_conf import Site, share, site
from tests.unit.values import CONFIG, COPY_ID, copy_of

__all__ = ["site"]

pytestmark = pytest.mark.require("smbd")


def config(*shares: Share) -> Config:
    """Return a configuration with shares."""
    sections = [
        Section(name=ours.name, path=ours.path, registry=False, share=ours, reason="")
        for ours in shares
    ]
    return replace(CONFIG, sections=tuple(sections))


PLAIN = Share(name="plain", path="/srv/vms", vfs_objects=("shell_snap",))
CAREFUL = replace(
    PLAIN,
    name="careful",
    path="/srv//vms/",
    nested=Nested.INCLUDE,
    previous_versions=True,
    forced="'force user = x'",
    keep=Keep.RECOVERED,
)
HINDERED = replace(PLAIN, name="hindered", obstacle="snapper stands before shell_snap")
SOME_FORCED = (
    "and differ in 'force user' or 'guest only': events cannot always tell whether a user is the"
    " client's own"
)
OTHER = replace(CAREFUL, name="other", path="/srv/vms/inner")


@pytest.mark.parametrize("shares", [(PLAIN, CAREFUL), (CAREFUL, PLAIN), (HINDERED, PLAIN, CAREFUL)])
def test_a_copy_has_what_any_of_its_shares_asks_for(shares: tuple[Share, ...]) -> None:
    found = find_share(config(*shares, OTHER), ("/srv/vms",))
    assert (found.path, found.nested, found.previous_versions) == ("/srv/vms", Nested.INCLUDE, True)
    assert found.keep is Keep.RECOVERED
    assert found.obstacle == ""  # Samba would not have called for the one that has it
    alike = twins.of((*shares, OTHER), "/srv/vms")
    assert alike == shares
    assert twins.shown_by(alike) == "careful"


def test_a_share_alone_is_as_it_is() -> None:
    for ours in (PLAIN, HINDERED, OTHER):
        assert find_share(config(ours), (ours.path,)) == ours
    assert list(twins.notes((PLAIN, OTHER))) == []


def test_differences_are_told() -> None:
    shares = (PLAIN, OTHER, CAREFUL, HINDERED)
    told = [said.partition(" are one directory, ") for said in twins.notes(shares)]
    assert {names for names, _, _ in told} == {"[plain] and [careful] and [hindered]"}
    assert [said for _, _, said in told] == [
        "and 'rvss:nested = include' of [careful] is taken for all",
        "and 'rvss:previous versions = yes' of [careful] is taken for all",
        "and 'rvss:keep = recovered' of [careful] is taken for all",
        SOME_FORCED,
        "but by [hindered] it can have no shadow copies",
    ]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("careful", "careful"),
        ("CAREFUL", "careful"),  # as a client may spell it
        ("ΑΡΧΕΙΟΣ", "Αρχειοσ"),
        ("vanished", "vanished"),
        ("Plain", "plain"),
    ],
)
def test_samba_says_which_share_a_copy_is_of(asked: str, name: str) -> None:
    shares = config(PLAIN, CAREFUL, replace(PLAIN, name="Αρχειοσ"))
    copy = replace(copy_of("x"), share="plain")
    assert exposed.share_name(shares, copy) == "plain"
    copy = replace(copy, exposed_share=f"{asked}@{{{COPY_ID}}}")
    assert exposed.share_name(shares, copy) == name


def test_whose_the_user_of_a_callout_is() -> None:
    assert twins.forced((PLAIN,)) == ""
    assert twins.forced((CAREFUL,)) == "the user is forced, by 'force user = x'"
    assert twins.forced((CAREFUL, PLAIN)) == "the user may be forced, by 'force user = x'"


def test_what_forces_a_user(site: Site) -> None:
    cases = {
        "a": ("force user = svc", "'force user = svc'"),
        "b": ("guest ok = yes\n    guest only = yes", "'guest only = yes'"),
        "c": ("guest ok = yes", ""),
    }
    site.write("", "".join(share(name, more=f"    {more}\n") for name, (more, _) in cases.items()))
    found = {ours.name: ours.forced for ours in site.load().shares}
    assert found == {name: forced for name, (_, forced) in cases.items()}
