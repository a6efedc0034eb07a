"""rvss-backup.conf: what it defines, and each refusal with its sentence."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import tdb

from samba_rvss.backups import pruning
from samba_rvss.backups.policy import parse as rules
from samba_rvss.backups.selection import Selection
from samba_rvss.cli import grouping
from samba_rvss.copies.backup import Backup, of_definition
from samba_rvss.copies.runs import Trace
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Consistency, Phase, Run, Share
from samba_rvss.samba import authentication, definitions
from samba_rvss.samba.conf import Config
from samba_rvss.samba.definitions import OPTIONS, Definition, Definitions, Wanted
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.sections import Section
from tests.unit.values import CONFIG, NOW, copy_of

pytestmark = pytest.mark.require("root")

MANUAL = Path(__file__).parents[2] / "packaging" / "man" / "samba-rvss-backup.conf.5"
USER = 12345


def _section(name: str) -> Section:
    share = Share(name=name, path=f"/srv/{name}")
    return Section(name=name, path=share.path, registry=False, share=share, reason="")


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of root's in /tmp, where everybody may write."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        (Path(directory) / "who").write_text("username = backup\npassword = secret\n")
        (Path(directory) / "who").chmod(0o600)
        yield Path(directory)


@pytest.fixture
def config(top: Path) -> Config:
    twin = replace(_section("twin"), share=Share(name="twin", path="/srv/vms/"))
    return replace(CONFIG, file=f"{top}/smb.conf", sections=(*map(_section, ("vms", "logs")), twin))


def _load(config: Config, *lines: str, name: str = "nightly") -> Definitions:
    """Read a section with some lines, besides those that it needs."""
    top = Path(config.file).parent
    needed = {"shares": "vms logs", "authentication file": f"{top}/who"}
    given = {line.partition("=")[0].strip() for line in lines}
    more = [f"{option} = {text}" for option, text in needed.items() if option not in given]
    text = "\n".join(("# backups", f"[{name}]", *more, *(line for line in lines if line), ""))
    (top / definitions.NAME).write_text(text)
    return definitions.load(config)


def test_what_is_defined(config: Config) -> None:
    (found,) = _load(
        config,
        "Files = /*.vhdx/Virtual Machines/",
        "veto files = /*.tmp/",
        "consistency = Application",
        "preexec = /bin/true 'two words' $HOME;",
        "preexec close = yes",
        "recovery command = /bin/true",
        "command timeout = 10 m",
        "retention = latest 3 7d",
        "warn age = 26 h",
    ).good
    assert (found.name, found.shares, found.server) == ("nightly", ("vms", "logs"), "")
    assert found.selection == Selection(files=("*.vhdx", "Virtual Machines"), veto=("*.tmp",))
    assert (found.consistency, found.preexec_close) == (Wanted.APPLICATION, True)
    assert found.preexec == ("/bin/true", "two words", "$HOME;")
    assert (found.command_timeout, found.warn_age) == (600.0, 26 * 3600.0)
    assert (found.retention, found.use_kerberos) == (rules("latest 3 7d"), False)
    (plain,) = _load(config, 'shares = "vms"').good
    assert (plain.consistency, plain.retention, plain.shares) == (Wanted.EITHER, None, ("vms",))
    text = "[far]\nserver = files2\nshares = any\nmachine account = yes\n"
    Path(definitions.path_of(config)).write_text(text)
    (other,) = definitions.load(config).good
    assert (other.server, other.shares, other.use_kerberos) == ("files2", ("any",), True)


def test_without_a_file_there_is_nothing(config: Config) -> None:
    found = definitions.load(config)
    assert (found.good, found.problems) == ((), ())
    with pytest.raises(RvssError, match="no backup 'nightly'") as caught:
        found.get("nightly")
    assert caught.value.problem is Problem.NOT_FOUND


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sharez = vms", "'sharez' is no option of a backup"),
        ("shares =", "'shares = ' is refused: names of shares are wanted"),
        ("shares = vms other", "'shares': other is no share of ours in"),
        ("shares = vms VMS", "'shares' names one twice"),
        ("shares = Twin logs VMS", "'shares': Twin and VMS are one directory"),
        ("server = a b", "the name or the address of a host is wanted"),
        ("server = files2\nretention = 7d", "'retention' is for backups that are kept here"),
        ("server = files2\nfiles = /a/", "'files' is for backups that are kept here"),
        ("files = ", "patterns of names between slashes"),
        (f"files = /{'x' * 600}/", "'files' and 'veto files' are too long"),
        ("consistency = good", "application, crash or either is wanted"),
        ("consistency = application", "needs a 'recovery command', which proves it"),
        ("consistency = crash\nrecovery command = /bin/true", "not run with 'consistency = crash'"),
        ("preexec = true", "'preexec = true' is refused: the absolute path of a program"),
        ("postexec = /bin/true '", "'postexec = /bin/true '' is refused: it cannot be split"),
        ("postexec = /bin/none", "'postexec': there is no program /bin/none"),
        ("notify command = /etc/passwd", "'notify command': /etc/passwd is not run: it is not exe"),
        ("preexec close = yes", "'preexec close' needs a 'preexec'"),
        ("preexec close = maybe\npreexec = /bin/true", "yes or no is wanted"),
        ("command timeout = 1 h", "at most 1500 s are possible"),
        ("command timeout = soon", "a time such as"),
        ("retention = no", "'retention = no' is refused: 'no' keeps nothing"),
        ("warn age = x", "'warn age = x' is refused"),
        ("use kerberos = desired", "required or off is wanted"),
        ("authentication file = who", "an absolute path is wanted"),
        ("authentication file = /none", "'authentication file': there is no file /none"),
        ("machine account = yes", "'authentication file' or 'machine account = yes'"),
        ("include = /etc/other.conf", "'include' is no option of a backup"),
        ("shares = vms\nshares = logs", "'shares' stands there twice"),
        ("warn age = 1 h\nWarnAge = 2 h", "stands there twice"),
        ("retention latest 3", "'retention latest 3' is neither '[NAME]' nor 'OPTION = VALUE'"),
        ("warn age = 1 h \\\nretention latest 3", "'warn age = 1 h retention latest 3' is refused"),
    ],
)
def test_what_is_refused_is_named(config: Config, line: str, sentence: str) -> None:
    found = _load(config, *line.split("\n"))
    assert found.good == ()
    (problems,) = found.wrong.values()
    assert any(sentence in problem for problem in problems), problems
    assert all(f"[nightly] in {found.file}" in problem for problem in problems)
    with pytest.raises(RvssError) as caught:
        found.get("nightly")
    assert caught.value.problem is Problem.CONFIG


@pytest.mark.parametrize("name", ["global", "a b", "-x", "x" * 65, "a/b", "", "%i"])
def test_names_that_are_refused(config: Config, name: str) -> None:
    found = _load(config, name=name)
    assert found.good == ()
    assert "a section is a backup, and its name at most 64" in "".join(found.problems)


def test_a_wrong_section_takes_out_no_other(config: Config) -> None:
    own = f"shares = vms\nauthentication file = {Path(config.file).parent}/who\n"
    text = f"[a]\n{own}[b]\n{own}x = y\n[c]\n{own}[C]\n{own}"
    Path(definitions.path_of(config)).write_text(text)
    found = definitions.load(config)
    assert [each.name for each in found.good] == ["a"]
    assert found.wrong.keys() == {"b", "c", "C"}
    assert "there is a second section of that name" in found.wrong["c"][0]


def test_a_head_that_is_none_is_told(config: Config) -> None:
    """As of a file that an editor on Windows has saved, with a mark of its coding before all."""
    file = Path(definitions.path_of(config))
    for head, said in (
        ("\ufeff[a]", r"'\\ufeff\[a\]' is neither"),
        ("[a", r"'\[a' is neither"),
        ("[a] shares = vms", r"'\[a\] shares = vms' is neither"),
    ):
        file.write_text(f"{head}\nshares = vms\nauthentication file = {file.parent}/who\n")
        with pytest.raises(RvssError, match=said) as told:
            definitions.load(config).get("a")
        assert "there are ," not in told.value.line()


@pytest.mark.parametrize("what", ["his", "group's", "way", "large"])
def test_a_file_that_others_could_write_is_refused(config: Config, what: str) -> None:
    file = Path(definitions.path_of(config))
    assert _load(config).good
    match what:
        case "his":
            os.chown(file, USER, USER)
        case "group's":
            file.chmod(0o664)
        case "way":
            os.chown(file.parent, USER, USER)
        case _:
            file.write_bytes(b"\n" * ((1 << 20) + 1))
    found = definitions.load(config)
    assert (found.good, found.wrong) == ((), {})
    assert found.refused.startswith(f"{file} is refused: ")
    with pytest.raises(RvssError, match="is refused"):
        found.get("nightly")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("his", "belongs to user 12345"),
        ("read", "others than root may read it"),
        ("written", "others than root may write to"),
    ],
)
def test_a_password_that_others_could_read_is_refused(
    config: Config, top: Path, what: str, sentence: str
) -> None:
    who = top / "who"
    match what:
        case "his":
            os.chown(who, USER, USER)
        case "read":
            who.chmod(0o640)
        case _:
            who.chmod(0o620)
    (problems,) = _load(config).wrong.values()
    assert sentence in problems[0]
    with pytest.raises(RvssError, match=sentence) as caught:
        authentication.require_private(str(who))
    assert caught.value.problem is Problem.REFUSED


@pytest.mark.require("smbd")
def test_the_account_of_this_machine(top: Path) -> None:
    """As Samba's secrets have it, and nobody else."""
    file = top / "smb.conf"
    file.write_text(
        f"[global]\nprivate dir = {top}\nworkgroup = DOM\nrealm = DOM.TEST\nnetbios name = FS1\n"
        f"lock directory = {top}\nstate directory = {top}\ncache directory = {top}\n"
    )
    with closing(SambaProcess()) as samba:
        with pytest.raises(RvssError, match="no account in a domain"):
            samba.call(authentication.of_machine, str(file), use_kerberos=False)
        secrets = tdb.Tdb(str(top / "secrets.tdb"), 0, 0, os.O_RDWR | os.O_CREAT, 0o600)
        secrets.store(b"SECRETS/MACHINE_PASSWORD/DOM", b"hidden\0")
        secrets.store(b"SECRETS/SALTING_PRINCIPAL/DES/DOM", b"host/fs1@DOM.TEST\0")
        secrets.close()
        found = samba.call(authentication.of_machine, str(file), use_kerberos=True)
        assert (found.user, found.password, found.domain) == ("FS1$", "hidden", "DOM.TEST")
        plain = samba.call(authentication.of_machine, str(file), use_kerberos=False)
        assert (plain.domain, plain.use_kerberos) == ("DOM", False)


def test_the_manual_has_each_option() -> None:
    lines = MANUAL.read_text().splitlines()
    told = [line[7:].partition(" No =")[0] for line in lines if line.startswith(".It Cm ")]
    assert tuple(told) == OPTIONS


@pytest.mark.parametrize(
    ("files", "veto", "path"),
    [
        ((), (), b"a/b"),
        (("*.vhdx",), (), b"a/B.VHDX"),
        (("Virtual Machines",), (), b"vm/virtual machines/x/y"),
        ((), ("?.tmp",), b"ab.tmp"),
        (("\u00e4*",), (), "d/\u00c4b".encode()),
        (("*",), (), b"\xff\xfe"),
    ],
)
def test_files_that_are_meant(files: tuple[str, ...], veto: tuple[str, ...], path: bytes) -> None:
    assert Selection(files=files, veto=veto).has(path)


@pytest.mark.parametrize(
    ("files", "veto", "path"),
    [
        (("*.vhdx",), (), b"a/b.vhdx.tmp"),
        (("*",), ("old",), b"old/b"),
        ((), ("?.tmp",), b"A.TMP"),
        (("a[b]", "x*"), (), b"ab"),
    ],
)
def test_files_that_are_not(files: tuple[str, ...], veto: tuple[str, ...], path: bytes) -> None:
    assert not Selection(files=files, veto=veto).has(path)


# Which rules are whose.


def _backup(name: str, run: str = "", *, seen: bool = True) -> Backup:
    return Backup(
        id=name,
        parts=(copy_of(name, Phase.KEPT),),
        missing="",
        tags=frozenset(),
        holds=(),
        seen=seen,
        run=Run(name=run, consistency=Consistency.CRASH) if run else None,
    )


def _groups(backup: Backup, defined: Definitions) -> set[str]:
    return set(grouping.as_pruned(backup, defined).groups)


def test_backups_of_a_definition_are_a_group_of_their_own() -> None:
    own = Definition(name="own", shares=("vms",), retention=rules("latest 1"))
    none = Definition(name="none", shares=("vms",))
    defined = Definitions(file="f", good=(own, none), wrong={"bad": ("it is bad",)})
    volume = set(grouping.as_pruned(_backup("x"), Definitions(file="f")).groups)
    assert len(volume) == 1
    assert _groups(_backup("x"), defined) == volume
    assert _groups(_backup("x", "own"), defined) == {"backup own"}
    assert _groups(_backup("x", "none"), defined) == volume
    # What is not certain lets nothing go: neither has rules.
    assert _groups(_backup("x", "bad"), defined) == {"backup bad"}
    assert _groups(_backup("x", "gone"), defined) == {"backup gone"}
    assert _groups(_backup("x", seen=False), defined) == set()
    found = [_backup("x", name) for name in ("own", "bad", "gone")]
    told = "; ".join(grouping.unruled(found, defined))
    assert "of the backup bad is pruned: it is bad" in told
    assert "of the backup gone is pruned: it is not in f any more" in told
    assert "own" not in told
    (refused,) = grouping.unruled(found, Definitions(file="f", refused="f is refused"))
    assert refused == "nothing of managed backups is pruned: f is refused"
    policies = grouping.policies(defined, replace(CONFIG, sections=(_section("vms"),)))
    backups = [grouping.as_pruned(replace_id(each, n), defined) for n, each in enumerate(found)]
    assert policies.keys() == {"backup own"}
    assert not any(verdict.removed for verdict in pruning.plan(backups, policies, now=NOW))


def replace_id(backup: Backup, number: int) -> Backup:
    """Return a backup under another name."""
    return replace(backup, id=f"x{number}")


def test_what_protects_the_shares_protects_their_backups() -> None:
    section = _section("vms")
    assert section.share is not None
    of_share = replace(rules("*"), minimum=rules("within 7d").within, requires=("offsite",))
    protected = replace(section, share=replace(section.share, retention=of_share))
    own = Definition(name="own", shares=("vms",), retention=rules("latest 1"))
    defined = Definitions(file="f", good=(own,))
    (policy,) = grouping.policies(defined, replace(CONFIG, sections=(protected,))).values()
    assert policy == replace(
        rules("latest 1"), minimum=rules("within 7d").within, requires=("offsite",)
    )
    (uncertain,) = grouping.policies(defined, CONFIG).values()
    assert uncertain is None


def test_a_share_that_a_definition_no_longer_names_keeps_its_backups() -> None:
    """They are not pushed out by those of other shares, and what protects the share holds."""
    sections = (_section("vms"), _section("logs"))
    own = Definition(name="own", shares=("logs",), retention=rules("latest 1"))
    defined = Definitions(file="f", good=(own,))
    of_logs = replace(copy_of("new", Phase.KEPT), share="logs")
    new = replace(_backup("new", "own"), parts=(of_logs,))
    earlier = NOW - timedelta(days=1)
    older = replace(new, id="older", parts=(replace(of_logs, created=earlier),))
    names = ("old", "oldest")
    old, oldest = (
        replace(_backup(name, "own"), parts=(copy_of(name, Phase.KEPT, created=earlier - ago),))
        for name, ago in zip(names, (timedelta(days=1), timedelta(days=2)), strict=True)
    )
    found = [new, older, old, oldest]

    def gone(*known: Section) -> list[str]:
        policies = grouping.policies(defined, replace(CONFIG, sections=known), found)
        pruned = [grouping.as_pruned(each, defined) for each in found]
        verdicts = pruning.plan(pruned, policies, now=NOW)
        return [verdict.backup.id for verdict in verdicts if verdict.removed]

    assert gone(*sections) == ["older", "oldest"]
    of_vms = sections[0].share
    assert of_vms is not None
    tagged = replace(of_vms, retention=replace(rules("*"), requires=("offsite",)))
    assert gone(replace(sections[0], share=tagged), sections[1]) == ["older"]
    assert gone(sections[1]) == ["older"]


def test_what_status_tells_of_a_definition() -> None:
    own = Definition(name="own", shares=("vms",), warn_age=3600)
    here = of_definition(own, [_backup("x"), _backup("y", "own")], None, NOW)
    assert (here.count, here.newest, here.is_stale(NOW), here.trouble) == (1, NOW, False, "")
    assert of_definition(own, [_backup("x")], None, NOW).is_stale(NOW)
    cut_off = of_definition(own, [], Trace(began=NOW.isoformat()), NOW)
    assert "it was cut off" in cut_off.trouble
    far = replace(own, server="files2")
    ended = Trace(began=NOW.isoformat(), ended=NOW.isoformat(), succeeded=NOW.isoformat())
    there = of_definition(far, [], ended, NOW)
    assert (there.newest, there.trouble, there.is_stale(NOW)) == (NOW, "", False)
