"""``samba-rvss setup``: smb.conf gets what a share needs and nothing else, and it goes again."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.errors import Problem
from samba_rvss.run import run
from samba_rvss.samba import conf, written
from samba_rvss.samba.conf import Config
from samba_rvss.samba.edited import Change, edited
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.setting import HOOK
from samba_rvss.samba.values import plain

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.require("root", "smbd")


class Site:
    """A directory with an smb.conf as an administrator might have it, who knows nothing of us."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "smb.conf"
        for name in ("state", "lock", "cache", "private", "run", "rvss"):
            (directory / name).mkdir()

    def write(self, shares: str, more: str = "") -> None:
        self.file.write_text(
            "# Ours since 2009.\n[global]\n"
            + "".join(
                f"\t{key} = {self.directory}/{name}\n"
                for key, name in {
                    "state directory": "state",
                    "lock directory": "lock",
                    "cache directory": "cache",
                    "private dir": "private",
                    "rvss:run directory": "run",
                    "rvss:state directory": "rvss",
                }.items()
            )
            + f"{more}\n; the shares\n{shares}"
        )

    def setup(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-P", "-m", "samba_rvss", "-s", self.file, "setup", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def load(self) -> Config:
        with closing(SambaProcess()) as samba:
            return samba.call(conf.load, str(self.file))

    def reason(self, name: str) -> str:
        """Return why a share cannot have shadow copies; empty if it can."""
        (found,) = [each for each in self.load().sections if each.name == name]
        return found.share.obstacle if found.share else found.reason


@pytest.fixture
def site(tmp_path: Path) -> Site:
    # The way to it must be root's alone: pytest's directories are.
    return Site(tmp_path)


SHARE = "[vms]\n\tpath = /srv/vms   \n\tread only = no\n\n[other]\n\tpath = /srv/other\n"


def test_nothing_is_written_unasked(site: Site) -> None:
    site.write(SHARE, "\tvfs objects = acl_xattr recycle\n")
    before = site.file.read_bytes()
    done = site.setup("vms")
    assert done.returncode == 0, done.stderr
    assert site.file.read_bytes() == before
    assert sorted(os.listdir(site.directory)) == [
        "cache", "lock", "private", "run", "rvss", "smb.conf", "state"
    ]  # fmt: skip
    for line in (
        "    registry shares = yes",
        "    include = registry",
        "    rpcd_fsrvp:num_workers = 1",
        "    rpcd_fsrvp:idle_seconds = 10",
        "    vfs objects = acl_xattr recycle shell_snap",
        f"    shell_snap:delete command = {HOOK} -S {site.directory}/run/hook.sock delete",
    ):
        assert line in done.stdout.splitlines()


def test_it_is_written_and_goes_again(site: Site) -> None:
    site.write(SHARE, "\tvfs objects = acl_xattr recycle\n\tfss:prune stale = yes\n")
    site.file.chmod(0o644)
    os.chown(site.file, 0, 7)
    os.setxattr(site.file, "user.note", b"ours")
    before = site.file.read_text()
    assert site.reason("vms")

    done = site.setup("vms", "--apply", "--keep", "recovered", "--previous-versions")
    assert done.returncode == 0, done.stderr
    assert site.reason("vms") == ""
    config = site.load()
    assert config.warnings == ()
    (share,) = config.shares
    assert share.keep.value == "recovered"
    assert share.vfs_objects == ("acl_xattr", "recycle", "shadow_copy2", "shell_snap")
    assert share.previous_versions
    assert dict(share.shadow)["mountpoint"] == "/srv/vms"
    status = site.file.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o644, 7)
    assert os.getxattr(site.file, "user.note") == b"ours"
    # Comments, blank lines and the other share are as they were.
    lines = site.file.read_text().splitlines()
    kept = [line for line in before.splitlines() if "prune stale" not in line]
    assert [line for line in lines if line in kept] == kept
    # What was there is beside it.
    (backup,) = site.directory.glob("smb.conf.*")
    assert backup.read_text() == before
    assert str(backup) in done.stdout

    # Once more is nothing more.
    after = site.file.read_bytes()
    done = site.setup("vms", "--apply", "--keep", "recovered", "--previous-versions")
    assert done.returncode == 0, done.stderr
    assert "[vms] has all that it needs." in done.stdout
    assert site.file.read_bytes() == after
    assert len(list(site.directory.glob("smb.conf.*"))) == 1

    backup.unlink()
    done = site.setup("VMS", "--remove", "--apply")
    assert done.returncode == 0, done.stderr
    assert not site.load().shares
    lines = site.file.read_text().splitlines()
    start = lines.index("[vms]")
    assert lines[start : start + 4] == ["[vms]", "\tpath = /srv/vms   ", "\tread only = no", ""]
    assert "[vms] has nothing of samba-rvss." in site.setup("vms", "--remove", "--apply").stdout


def test_a_share_of_the_registry(site: Site) -> None:
    site.write("", "\tregistry shares = yes\n\tinclude = registry\n")

    def net(*words: str) -> str:
        return run(["net", f"--configfile={site.file}", "conf", *words], timeout=60)

    net("addshare", "regs", "/srv/regs", "writeable=y", "guest_ok=n")
    net("setparm", "regs", "vfs objects", "snapper")
    done = site.setup("regs", "--apply", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == 1
    assert found["applied"]
    assert {change["parameter"] for change in found["changes"] if change["registry"]} == {
        "vfs objects",
        *(f"shell_snap:{verb} command" for verb in ("check path", "create", "delete")),
    }
    assert site.reason("regs") == ""
    assert "vfs objects = shell_snap snapper" in net("showshare", "regs")
    # [global] stands in the file.
    assert "rpcd_fsrvp:num_workers = 1" in site.file.read_text()

    done = site.setup("regs", "--remove", "--apply")
    assert done.returncode == 0, done.stderr
    shown = net("showshare", "regs")
    assert "shell_snap" not in shown
    assert "vfs objects = snapper" in shown


@pytest.mark.parametrize(
    ("words", "shares", "said", "problem"),
    [
        (["none"], SHARE, "there is no share [none]", Problem.NOT_FOUND),
        (["homes"], "[homes]\n\tpath = /home/%U\n", "a share of each user", Problem.REFUSED),
        (["vms", "--apply"], "[vms]\n\tpath = /srv/%U\n", "the macro %U", Problem.REFUSED),
        (["vms", "--remove", "--keep", "yes"], SHARE, "--remove", Problem.USAGE),
        (["vms", "--keep", "maybe"], SHARE, "maybe", Problem.USAGE),
        (["vms", "--apply"], SHARE.replace("\n", "\r\n"), "CR LF", Problem.REFUSED),
        ([], SHARE, "SHARE", Problem.USAGE),
    ],
)
def test_what_cannot_be_is_refused(
    site: Site, words: Sequence[str], shares: str, said: str, problem: Problem
) -> None:
    site.write(shares)
    site.file.write_bytes(site.file.read_bytes().replace(b"\r\r", b"\r"))
    before = site.file.read_bytes()
    done = site.setup(*words)
    assert done.returncode == problem
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert site.file.read_bytes() == before
    assert not list(site.directory.glob("smb.conf.*"))


def test_a_share_in_an_included_file_is_refused(site: Site) -> None:
    (site.directory / "more.conf").write_text(SHARE)
    site.write("", f"\tinclude = {site.directory}/more.conf\n")
    done = site.setup("vms", "--apply")
    assert done.returncode == Problem.REFUSED
    assert "stands in an included file" in done.stderr


@pytest.mark.parametrize(
    ("shares", "more", "said"),
    [
        (SHARE, "\tinclude = {0}/stale.conf\n", "'fss:prune stale' of [global] is 'yes'"),
        # At the second head, Samba forgets what stands under the first one: nothing is said twice.
        (f"{SHARE}[copy]\n\tcopy = vms\n\tpath = /srv/c\n", "", "of [copy] would be"),
    ],
)
def test_what_would_not_hold_is_refused(site: Site, shares: str, more: str, said: str) -> None:
    (site.directory / "stale.conf").write_text("fss:prune stale = yes\n")
    site.write(shares, more.format(site.directory))
    before = site.file.read_bytes()
    for words in ((), ("--apply",)):
        done = site.setup("vms", *words)
        assert done.returncode == Problem.REFUSED, done.stdout
        assert said in done.stderr
    assert site.file.read_bytes() == before


def test_what_the_registry_has_is_not_served_unasked(site: Site) -> None:
    site.write(SHARE, "\tregistry shares = yes\n\tinclude = registry\n")
    run(["net", f"--configfile={site.file}", "conf", "addshare", "old", "/srv/old"], timeout=60)
    site.write(SHARE)
    done = site.setup("vms", "--apply")
    assert done.returncode == Problem.REFUSED
    assert "shares that Samba's registry has would be served: old" in done.stderr
    site.write(SHARE, "\tregistry shares = yes\n")
    assert site.setup("vms", "--apply").returncode == 0


def test_what_a_registry_share_copies_stays(site: Site) -> None:
    site.write(
        "[base]\n\tpath = /srv/base\n\tvfs objects = acl_xattr full_audit\n",
        "\tregistry shares = yes\n\tinclude = registry\n",
    )
    for words in (("addshare", "regs", "/srv/regs"), ("setparm", "regs", "copy", "base")):
        run(["net", f"--configfile={site.file}", "conf", *words], timeout=60)
    done = site.setup("regs", "--apply")
    assert done.returncode == 0, done.stderr
    assert site.load().modules("regs") == ("acl_xattr", "full_audit", "shell_snap")


def test_each_part_of_a_section_and_globals(site: Site) -> None:
    """As some files are: [globals], an include that ends it, and a share in two parts."""
    (site.directory / "shares.conf").write_text("[third]\n\tpath = /srv/third\n")
    site.write(
        "[vms]\n\tpath = /srv/vms\n\trvss:keep = no\n[other]\n\tpath = /o\n"
        "[vms]\n\tread only = no\n"
    )
    text = site.file.read_text().replace("[global]", "[globals]")
    head, _, tail = text.partition("; the shares\n")
    site.file.write_text(f"{head}\tinclude = {site.directory}/shares.conf\n{tail}".rstrip("\n"))
    done = site.setup("vms", "--apply", "--keep", "yes")
    assert done.returncode == 0, done.stderr
    config = site.load()
    (share,) = config.shares
    assert share.keep.value == "yes"
    assert config.warnings == ()
    assert "[global]" not in site.file.read_text()


def test_the_previous_versions_of_others_stay(site: Site) -> None:
    site.write(SHARE.replace("\tread only", "\tshadow:snapdir = .snapshots\n\tread only"))
    done = site.setup("vms", "--apply", "--previous-versions")
    assert done.returncode == Problem.REFUSED
    assert "'shadow:snapdir = .snapshots'" in done.stderr


def test_a_file_that_others_may_write_is_not_trusted(site: Site) -> None:
    site.write(SHARE)
    site.file.chmod(0o666)
    done = site.setup("vms", "--apply")
    assert done.returncode == Problem.REFUSED
    assert "others than root may write" in done.stderr


def test_a_link_is_followed_and_stays(site: Site) -> None:
    site.write(SHARE)
    real = site.directory / "real.conf"
    site.file.rename(real)
    site.file.symlink_to("real.conf")
    done = site.setup("vms", "--apply")
    assert done.returncode == 0, done.stderr
    assert site.file.is_symlink()
    assert "shell_snap" in real.read_text()


# the text


def change(section: str, key: str, value: str | None) -> Change:
    return Change(section=section, key=key, value=value, why="")


def test_of_several_the_one_that_counts_is_changed() -> None:
    text = "[a]\n  x = 1\n[b]\nx = 2\n[A]\n  X=3\n"
    assert edited(text, [change("a", "x", "9")]) == "[a]\n  x = 1\n[b]\nx = 2\n[A]\n  x = 9\n"
    assert edited(text, [change("a", "x", None)]) == "[a]\n[b]\nx = 2\n[A]\n"


def test_a_parameter_of_several_lines() -> None:
    text = "[a]\n  valid users = one \\\n    two\n  # a comment \\\n  path = /a\n"
    assert edited(text, [change("a", "validusers", "me")]) == (
        "[a]\n  validusers = me\n  # a comment \\\n  path = /a\n"
    )


def test_a_part_before_does_not_count() -> None:
    text = "[a]\n  x = 1\n[a]\n  y = 2\n"
    assert edited(text, [change("a", "x", "9")]) == "[a]\n  x = 1\n[a]\n  y = 2\n  x = 9\n"


def test_what_is_new_comes_before_an_include() -> None:
    text = "x = 1\n[ GlobalS ]\n  y = 2\n  include = /a\n  include = registry\n  z = 3"
    assert edited(text, [change("global", "new", "9")]) == (
        "x = 1\n[ GlobalS ]\n  y = 2\n  new = 9\n  include = /a\n  include = registry\n  z = 3\n"
    )
    assert edited("a = \\", [change("global", "b", "2")]) == "a = \\\n\nb = 2"


def test_a_section_that_is_missing() -> None:
    assert edited("[a]\n", [change("global", "x", "1")]) == "[global]\n    x = 1\n\n[a]\n"
    with pytest.raises(KeyError):
        edited("[a]\n", [change("b", "x", "1")])


_lines = st.sampled_from(
    [
        "[a]",
        "[B]",
        "[global]",
        "x = 1",
        "  y=2",
        "# x = 0",
        "; [a]",
        "",
        "z = 1 \\",
        "   more",
        "\tX = 3",
    ]
)


@given(
    st.lists(_lines, max_size=12),
    st.sampled_from(["a", "b", "global"]),
    st.sampled_from(["x", "y", "z", "new"]),
    st.sampled_from([None, "7"]),
)
def test_nothing_but_what_is_meant_changes(
    lines: Sequence[str], section: str, key: str, value: str | None
) -> None:
    text = "\n".join(["[a]", "[b]", *lines, ""])
    before = written.sections(written.parse(text))
    after = written.sections(written.parse(edited(text, [change(section, key, value)])))
    own = {plain(name): text for name, text in after.get(section, ())}
    assert own.get(key) == value
    for name in before.keys() | after.keys():
        others = [
            [
                (plain(word), text)
                for word, text in found.get(name, ())
                if (name, plain(word)) != (section, key)
            ]
            for found in (before, after)
        ]
        assert others[0] == others[1]
