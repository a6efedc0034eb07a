"""smb.conf as Samba itself reads it: which shares are ours, and what their options say.

python-samba keeps the first registry that it opens, so each reading has a process of its own.
"""

import ctypes
import math
import os
import random
import re
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from samba.param import LoadParm

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Nested, Share, Writers
from samba_rvss.run import run
from samba_rvss.samba import callout, conf, registry, values
from samba_rvss.samba.clocks import Clocks
from samba_rvss.samba.conf import Config, find_share
from samba_rvss.samba.options import OPTIONS
from samba_rvss.samba.parser import EXPOSED
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.registry import Amendment
from samba_rvss.samba.sections import Section
from samba_rvss.testing.example import readme_block
from tests.unit.values import CONFIG

pytestmark = pytest.mark.require("smbd")
by_samba = pytest.mark.vm(seconds=3)  # what its version decides

HOOK = "/usr/libexec/samba-rvss/hook"
OURS = """\
    vfs objects = shell_snap
    shell_snap:check path command = {hook} check
    shell_snap:create command = {hook} create
    shell_snap:delete command = {hook} delete
"""


class Site:
    """A directory with an smb.conf, and databases of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "smb.conf"
        for name in ("state", "lock", "cache", "private"):
            (directory / name).mkdir()

    def write(self, globals_: str = "", shares: str = "", *, registry: bool = True) -> None:
        """Write smb.conf: our directories, more of [global], and shares."""
        lines = [
            "[global]",
            f"    state directory = {self.directory}/state",
            f"    lock directory = {self.directory}/lock",
            f"    cache directory = {self.directory}/cache",
            f"    private dir = {self.directory}/private",
            "    rpcd_fsrvp:num_workers = 1",
            "    rpcd_fsrvp:idle_seconds = 10",
        ]
        if registry:
            lines += ["    registry shares = yes", "    include = registry"]
        self.file.write_text("\n".join([*lines, globals_, shares]) + "\n")

    def load(self) -> Config:
        """Read it in a new process."""
        with closing(SambaProcess()) as samba:
            return samba.call(conf.load, str(self.file))

    def net(self, *words: str) -> str:
        """Run ``net conf``."""
        return run(["net", f"--configfile={self.file}", "conf", *words], timeout=30)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def share(name: str, path: str = "/srv/vms", more: str = "", *, hook: str = HOOK) -> str:
    """Return a share that is ours."""
    return f"[{name}]\n    path = {path}\n{OURS.format(hook=hook)}{more}\n"


def section(config: Config, name: str) -> Section:
    """Return one section."""
    (found,) = [entry for entry in config.sections if entry.name == name]
    return found


# options


@by_samba
def test_defaults(site: Site) -> None:
    site.write("", share("vms"))
    config = site.load()
    assert config == replace(
        CONFIG,
        file=str(site.file),
        samba_lock_directory=f"{site.directory}/lock",
        samba_state_directory=f"{site.directory}/state",
        sections=config.sections,
        files=(str(site.file),),
        clocks=Clocks(idle=10),
    )
    assert config.shares == (
        Share(
            name="vms",
            path="/srv/vms",
            vfs_objects=("shell_snap",),
            maximum_copies=100,
            minimum_free=32 << 20,
        ),
    )
    assert config.hook_socket == "/run/samba-rvss/hook.sock"
    assert config.admin_socket == "/run/samba-rvss/admin.sock"
    assert config.ledger == "/var/lib/samba-rvss/ledger.db"
    assert config.fss_state == f"{site.directory}/lock/srv_fss.tdb"


def test_options_of_the_daemon(site: Site) -> None:
    site.write(
        "    rvss:run directory = /run/two\n"
        "    rvss:state directory = /var/lib/two\n"
        "    RVSS:Commit Deadline = 10 s\n"
        "    rvss:seal deadline = 2m\n",
        share("vms", hook=f"{HOOK} -S /run/two/hook.sock"),
    )
    config = site.load()
    assert (config.run_directory, config.state_directory) == ("/run/two", "/var/lib/two")
    assert (config.commit_deadline, config.seal_deadline) == (10.0, 120.0)
    assert [ours.name for ours in config.shares] == ["vms"]


def test_options_of_a_share_come_before_those_of_all(site: Site) -> None:
    site.write(
        "    rvss:nested = include\n    rvss:previous versions = yes\n",
        share("a", "/srv/a")
        + share("b", "/srv/b", "    rvss:nested = refuse\n    rvss:previous versions = No\n"),
    )
    a, b = site.load().shares
    assert (a.nested, a.previous_versions) == (Nested.INCLUDE, True)
    assert (b.nested, b.previous_versions) == (Nested.REFUSE, False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("50", 50), ("50 s", 50), ("50s", 50), ("1.5", 1.5), ("10 S", 10)],
        *[("30 m", 1800), ("2 min", 120), ("72 h", 259200), ("1 d", 86400)],
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert OPTIONS["commit deadline"].parse(text) == seconds


@pytest.mark.parametrize(
    ("option", "text", "wanted"),
    [
        ("commit deadline", "soon", "a time such as"),
        ("commit deadline", "0", "a time such as"),
        ("commit deadline", "-5", "a time such as"),
        ("commit deadline", "5 weeks", "a time such as"),
        ("commit deadline", "1e3", "a time such as"),
        ("seal deadline", "nan", "a time such as"),
        ("run directory", "run", "an absolute path"),
        ("run directory", "/run/../etc", "an absolute path"),
        ("run directory", "/run/x/", "an absolute path"),
        ("run directory", "/run/a b", "an absolute path"),
        ("run directory", "/run/50%D", "without '%'"),
        ("run directory", "/run/o'clock", "quotes"),
        ("run directory", "/run/\udce4", "UTF-8"),
        ("state directory", "//var", "an absolute path"),
        ("nested", "maybe", "refuse or include"),
        ("previous versions", "perhaps", "yes or no"),
        ("previous versions limit", "all", "0 for none"),
        ("previous versions limit", "-1", "0 for none"),
    ],
)
def test_wrong_values(option: str, text: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        OPTIONS[option].parse(text)


WRONG = [
    ("rvss:nested = maybe", "has 'rvss:nested = maybe': refuse or include is wanted"),
    ("rvss:nestde = include", "has the unknown option 'rvss:nestde': 'rvss:nested' may be meant;"),
    ("rvss:xyz = include", "has the unknown option 'rvss:xyz': see samba-rvss.conf(5)"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_in_global_concerns_all(site: Site, text: str, said: str) -> None:
    site.write(f"    {text}\n", share("vms"))
    with pytest.raises(RvssError) as caught:
        site.load()
    assert caught.value.problem is Problem.CONFIG
    assert caught.value.message.startswith(f"[global] {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *WRONG,
        ("rvss:run directory = /run/x", "has 'rvss:run directory', which belongs in [global]"),
    ],
)
def test_what_is_wrong_in_a_share_takes_it_out_alone(site: Site, text: str, said: str) -> None:
    """It stays ours, for the copies that it has, with all that is right in it."""
    more = f"    {text}\n    rvss:previous versions = yes\n    write list = ann\n"
    site.write("", share("vms", more=more) + share("other", "/srv/other"))
    config = site.load()
    vms, other = config.share("vms"), config.share("other")
    assert vms is not None
    assert vms.obstacle.startswith(f"it {said}")
    assert (vms.nested, vms.previous_versions, vms.write_list) == (Nested.REFUSE, True, "ann")
    assert other is not None
    assert other.obstacle == ""
    assert any(note.startswith(f"[vms] {said}") for note in config.notes)


def test_a_cluster_is_refused_by_name(site: Site) -> None:
    site.write("    clustering = yes\n", share("vms"))
    with pytest.raises(RvssError, match="'clustering = yes' in \\[global\\] is not supp") as caught:
        site.load()
    assert caught.value.problem is Problem.CONFIG


@given(st.sampled_from(sorted(OPTIONS)), st.text(max_size=30))
def test_any_value_is_read_or_refused(name: str, text: str) -> None:
    option = OPTIONS[name]
    refused = ""
    try:
        value = option.parse(text)
    except ValueError as exc:
        refused = str(exc)
    if refused:
        assert "wanted" in refused
    else:
        assert not isinstance(value, float) or 0 <= value < float("inf")


def test_unknown_options_are_found_in_shares_that_are_not_ours(site: Site) -> None:
    site.write("", "[data]\n    path = /srv\n    rvss:backup = yes\n" + share("vms"))
    config = site.load()
    said = "has the unknown option 'rvss:backup'"
    assert f"; it {said}" in section(config, "data").reason
    assert any(note.startswith(f"[data] {said}") for note in config.notes)
    assert [ours.name for ours in config.shares if not ours.obstacle] == ["vms"]


def test_directories_are_two_and_have_no_links(site: Site) -> None:
    one = site.directory / "one"
    one.symlink_to("state")
    text = f"    rvss:run directory = {one}/x\n    rvss:state directory = {site.directory}/state/"
    site.write(f"{text}y\n", share("vms", hook=f"{HOOK} -S {one}/x/hook.sock"))
    config = site.load()
    assert config.run_directory == f"{site.directory}/state/x"
    assert [ours.name for ours in config.shares] == ["vms"]
    site.write(f"{text}x\n")
    with pytest.raises(RvssError, match=r"are both .*/state/x: clients reach the one") as caught:
        site.load()
    assert caught.value.problem is Problem.CONFIG
    one.unlink()
    one.symlink_to("a c")
    with pytest.raises(RvssError, match=r"leads to '.*/a c/x': take a path without blanks"):
        site.load()


def test_a_file_that_is_not_there(site: Site) -> None:
    with pytest.raises(RvssError, match="cannot read") as caught:
        site.load()
    assert caught.value.problem is Problem.CONFIG
    assert str(site.file) in caught.value.message


@by_samba
def test_a_file_that_samba_does_not_take(site: Site) -> None:
    site.file.write_text("[global]\n    include = registry\n[vms\n    path = /srv\n")
    with pytest.raises(RvssError, match="Samba does not accept") as caught:
        site.load()
    assert caught.value.problem is Problem.CONFIG


# shares


@by_samba
def test_the_readme_s_example_is_ours(site: Site) -> None:
    text = readme_block().split("[global]\n", 1)[1]
    example_globals, _, example_share = text.partition("\n[")
    site.write(example_globals, f"[{example_share}", registry=False)
    config = site.load()
    assert config.warnings == ()
    assert [(ours.name, ours.path) for ours in config.shares] == [("vms", "/srv/vms")]


def test_modules_keep_their_order_and_arguments(site: Site) -> None:
    objects = "    vfs objects = acl_xattr shell_snap:x shadow_copy2\n"
    site.write("", share("vms", more=objects))
    assert site.load().shares[0].vfs_objects == ("acl_xattr", "shell_snap:x", "shadow_copy2")


_SAMBA = LoadParm()
_VALUE = st.text(st.sampled_from("ab%S\"'\\,;:/ \t\r\né"), max_size=12)


@given(_VALUE, st.lists(_VALUE.map(lambda text: text.replace('"', "")), max_size=4))
@example('"a,b" "" c;d "e f', ["", "a,b"])
def test_lists_are_read_as_samba_reads_them(text: str, entries: list[str]) -> None:
    _SAMBA.set("vfs objects", text)
    assert values.listed(text) == tuple(_SAMBA.get("vfs objects"))
    assert values.listed(values.joined(entries)) == tuple(entries)


def _in_effect(file: str, names: list[str]) -> list[tuple[str, str]]:
    """Return the paths of shares as rpcd_fsrvp has them, and as smbd has them for a client.

    Samba's own library, behind python-samba, is asked.
    """
    from samba_rvss.samba.parser import open_context

    open_context(file)
    library = ctypes.CDLL("libsmbconf.so.0")
    for function in (library.loadparm_s3_global_substitution, library.lp_path):
        function.restype = ctypes.c_void_p
    library.talloc_sub_full.restype = ctypes.c_char_p
    none, user = ctypes.c_void_p(None), ctypes.c_char_p(b"user")
    how = ctypes.c_void_p(library.loadparm_s3_global_substitution())
    found = []
    for name in map(os.fsencode, names):
        path = ctypes.c_void_p(library.lp_path(none, how, library.lp_servicenumber(name)))
        written = ctypes.cast(path, ctypes.c_char_p).value or b""
        full = library.talloc_sub_full(none, name, user, b"/x", 0, user, b"DOM", written)
        found.append((written.decode(), full.decode()))
    return found


def _random_paths(characters: str) -> list[str]:
    """Return paths that nobody thought of."""
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)  # noqa: S311 - paths are no secret
    quotes, ends = ("", "", '"', '""'), ("", '"', "/", '/"', "x")
    return [
        chance.choice(quotes)
        + "/srv/"
        + "".join(chance.choices(characters, k=chance.randrange(9)))
        + chance.choice(ends)
        for _ in range(200)
    ]


@by_samba
def test_paths_are_read_as_samba_reads_them(site: Site) -> None:
    """A path with a macro may be another directory for each client, and is never taken."""
    # A backslash at the end would take the next line with it.
    paths = [path for path in _random_paths("abDS%%SULog$()/.;,&é' \"\\") if path[-1:] != "\\"]
    names = [f"Share{number}$" for number in range(len(paths))]
    site.write("", "".join(map(share, names, paths)), registry=False)
    with closing(SambaProcess()) as samba:
        theirs = samba.call(_in_effect, str(site.file), names)
    ours = {entry.name: entry for entry in site.load().sections}
    taken = 0
    for name, (written, path) in zip(names, theirs, strict=True):
        entry = ours[name]
        if "has the macro" not in entry.reason:
            taken += 1
            assert (entry.written, entry.path) == (written, values.directory(path))
    assert taken > len(paths) / 2


def test_what_a_callout_is_told_is_what_sh_makes_of_it() -> None:
    r"""Samba escapes what means something to sh, unless quotes or a backslash did before."""
    library = ctypes.CDLL("libsmbconf.so.0")
    library.escape_shell_string.restype = ctypes.c_char_p
    for path in _random_paths("ab$&;()é'\" \t\\"):
        # The delete callout's second argument must not become a part of the first.
        command = library.escape_shell_string(f"printf '%s\\n' {path} /end".encode()).decode()
        done = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, check=False
        )
        *words, last = done.stdout.split("\n")[:-1] or [""]
        told = callout.folded(" ".join(words)) if last == "/end" else None
        assert callout.passed(path) == told


def test_modules_that_answer_before_us(site: Site) -> None:
    """Whatever their arguments, and however the option is spelt; behind us they do no harm."""
    on, off = "btrfs: Manipulate snapshots = yes", "btrfs:manipulate snapshots = no"
    library = "/usr/lib/samba/vfs/btrfs.so:x"
    cases = {
        "a": ("snapper shell_snap", off),
        "b": ("acl_xattr snapper:x, shell_snap", off),
        "c": ("btrfs shell_snap", on),
        "d": (f"{library} acl_xattr shell_snap:x", on),
        "e": ('"btrfs:x";shell_snap', "available = yes"),  # [global] has it
        "f": ("btrfs shell_snap", off),
        "g": ("acl_xattr shell_snap btrfs snapper", on),
        "h": ("shadow_copy2 full_audit time_audit catia shell_snap", on),
    }
    sections = [
        share(name, more=f"    vfs objects = {objects}\n    {option}\n")
        for name, (objects, option) in cases.items()
    ]
    site.write(f"    {on}", "".join(sections))
    _in_registry(site, "i", _commands() | {"vfs objects": '"snapper",shell_snap'})
    found = {ours.name: ours.obstacle for ours in site.load().shares}
    named = {name: said.split()[2] for name, said in found.items() if said}
    assert named == dict.fromkeys("abi", "snapper") | dict.fromkeys("cde", "btrfs")
    assert sorted(found) == list("abcdefghi")


def test_who_may_write_during_recovery(site: Site) -> None:
    cases = {
        "a": ("read only = no", Writers.ANYBODY),
        "b": ("writable = yes", Writers.ANYBODY),
        "c": ("write ok = no", Writers.CLIENT),
        "d": ("path = /srv/d", Writers.CLIENT),
        "e": ('write list = @staff "DOM\\a b"', Writers.LISTED),
        "f": ("write list = x\n    force user = x", Writers.LISTED),
        "g": ("force user = x", Writers.UNKNOWN),
        "h": ("guest ok = yes\n    only guest = yes", Writers.UNKNOWN),
        "i": ("read only = no\n    force user = x", Writers.ANYBODY),
        "j": ("write list =", Writers.CLIENT),
    }
    site.write("", "".join(share(name, more=f"    {more}\n") for name, (more, _) in cases.items()))
    _in_registry(site, "k", _commands() | {"writeable": "yes"})
    config = site.load()
    assert {ours.name: ours.writers for ours in config.shares} == {
        **{name: writers for name, (_, writers) in cases.items()},
        "k": Writers.ANYBODY,
    }
    assert [said.split()[0] for said in config.notes] == ["[g]", "[h]"]
    site.write("    write list = @staff", share("a") + share("b", more="    write list =\n"))
    assert [ours.writers for ours in site.load().shares[:2]] == [Writers.LISTED, Writers.CLIENT]


@by_samba
def test_quotes_commas_and_spellings(site: Site) -> None:
    """In a file and in the registry."""
    odd = (
        '    path = "/srv/My VMs/"\n    VFS Object = "acl_xattr",shell_snap;\n'
        f"    Shell_Snap : Create  Command = {HOOK} create\n    RVSS : nested = Include\n"
    )
    site.write(
        "    path = /srv//./all/\n", share("file", more=odd) + share("all", more="    path =\n")
    )
    with site.file.open("a") as file:
        file.write(f"[inherits]\n{OURS.format(hook=HOOK)}")
    spelt = {
        **_commands(),
        "path": '"/srv/My VMs/"',
        "vfs objects": '"acl_xattr",\t"shell_snap"',
        "rvss: Nested": '"include"',
    }
    _in_registry(site, "registry", spelt)
    found = {ours.name: ours for ours in site.load().shares}
    assert found.keys() == {"file", "registry", "inherits"}
    assert found["inherits"].path == "/srv/all"
    for name in ("file", "registry"):
        assert found[name].path == "/srv/My VMs"
        assert found[name].vfs_objects == ("acl_xattr", "shell_snap")
        assert found[name].nested is Nested.INCLUDE


@by_samba
def test_a_share_s_name_in_its_values(site: Site) -> None:
    site.write(
        "    valid users = %S\n    root preexec = /bin/x %S\n    log file = /var/log/%S\n"
        '    write list = "a,%S"\n    audit : Prefix = %u|%S\n',
        share("VMs", '"/srv/%S/5%"', "    root preexec =\n    preexec = y %S\n")
        + share("b$", "/srv/%S")
        + share("c & d", "/srv/%S")
        + share("homes", "/srv/%S")
        + share("User", "/srv/%%S")
        + share("other", "/srv/%S%U"),
    )
    config = site.load()
    found = {ours.name: ours for ours in config.shares}
    assert {name: ours.path for name, ours in found.items()} == {
        "VMs": "/srv/VMs/5%",
        "b$": "/srv/b_",
        "c & d": "/srv/c _ d",
    }
    # What has the name of every option and of its own share is one text for the hook.
    assert "the paths of the shares b$, c & d differ only in" in found["b$"].obstacle
    assert "what Samba puts for %S in its path /srv/%S depends on" in found["c & d"].obstacle
    with pytest.raises(RvssError, match=r"b\$, c & d differ only in"):
        find_share(config, ("/srv/%S",))
    assert find_share(config, ("/srv/%S/5%",)) == found["VMs"]
    assert dict(found["VMs"].named) == {
        "valid users": "VMs",
        "write list": '"a,VMs"',
        "audit : prefix": "%u|VMs",
        "preexec": "y VMs",
    }
    assert found["VMs"].write_list == '"a,VMs"'
    assert section(config, "homes").reason.startswith("it stands for a share of each user")
    assert "has the macro %U, so" in section(config, "other").reason
    assert "has the macro %U, so" in section(config, "User").reason


def test_paths_that_samba_cannot_pass_on(site: Site) -> None:
    r"""But it can pass on those whose ``%`` is no macro; what is told of /srv/a\b is /srv/ab."""
    bad = ["/srv/it's", '/srv/a"b" c', "/srv/a\\b", "/srv/a\\"]
    good = ["/srv/100%", "/srv/5% off/%b/%%", "/srv/%LogonServer%", "/srv/$(x)", '"/srv/q"']
    names = [f"s{number}" for number in range(len(bad + good))]
    site.write("", "".join(map(share, names, bad[:-1] + good)))
    _in_registry(site, names[-1], _commands() | {"path": bad[-1]})
    config = site.load()
    said = {ours.path: ours.obstacle for ours in config.shares}
    assert [path for path, obstacle in said.items() if not obstacle] == [
        path.strip('"') for path in good
    ]
    for path in bad:
        assert f"Samba cannot pass its path {path} on to the hook" in said[path]
    assert find_share(config, ("/srv/ab",)).path == "/srv/a\\b"
    for path in good:
        assert find_share(config, tuple(path.strip('"').split())).path == path.strip('"')


def test_modules_of_global_that_a_share_lacks(site: Site) -> None:
    """Its own ``vfs objects`` replaces that of [global], and with it what guarded the share."""
    site.write(
        '    vfs objects = "acl_xattr" snapper, full_audit:x\n',
        share("a")
        + share(
            "b", more="    vfs objects = full_audit shell_snap /usr/lib/samba/vfs/acl_xattr.so\n"
        )
        + "[c]\n    path = /srv/c\n    vfs objects = catia\n",
    )
    (said,) = site.load().notes
    assert said.startswith("[a] has 'vfs objects' of its own, which replaces that of [global], and")
    assert "lacks acl_xattr full_audit: " in said


def test_everything_in_global_makes_every_share_ours(site: Site) -> None:
    site.write(
        OURS.format(hook=HOOK),
        "[a]\n    path = /srv/a\n[b]\n    path = /srv/b\n    vfs objects = acl_xattr\n",
    )
    config = site.load()
    assert [ours.name for ours in config.shares] == ["a"]
    assert section(config, "b").reason == "vfs objects has no shell_snap"


def test_reasons(site: Site) -> None:
    """A share that is not ours says why, for `samba-rvss shares`."""
    site.write(
        "",
        "[plain]\n    path = /srv/plain\n"
        + share("elsewhere", hook=f"{HOOK} -S /run/other/hook.sock")
        + share("script", hook="/usr/local/bin/snapshots")
        + share("macro", "/srv/%U")
        + share("pathless", "", "    path =\n"),
    )
    config = site.load()
    assert config.shares == ()
    assert section(config, "plain").reason == "vfs objects has no shell_snap"
    for name in ("elsewhere", "script"):
        reason = section(config, name).reason
        assert "does not call the hook of this instance (/run/samba-rvss/hook.sock)" in reason
        assert "'shell_snap:create command'" in reason
    assert "macro" in section(config, "macro").reason
    assert section(config, "pathless").reason == "it has no path"


def test_one_wrong_command_is_named(site: Site) -> None:
    wrong = f"    shell_snap:delete command = {HOOK} create\n"
    site.write("", share("vms", more=wrong))
    reason = section(site.load(), "vms").reason
    assert reason.startswith("'shell_snap:delete command' does not call")
    assert "'shell_snap:create command'" not in reason


def test_what_calls_our_hook(site: Site) -> None:
    library = "/usr/lib/python3/dist-packages/samba_rvss/hook.py"
    ours = [
        HOOK,
        "/opt/samba-rvss/hook",
        library,
        f"/usr/bin/python3 -ISE {library}",
        f"{HOOK} -S /run/samba-rvss/hook.sock",
        f"'{HOOK}'",
    ]
    others = [
        f"{HOOK} -S /run/other/hook.sock",
        f"sudo {HOOK}",
        f"{HOOK} -x",
        "/usr/libexec/other/hook",
        "hook",
        f"{HOOK} 'unclosed",
    ]
    hooks = [*ours, *others]
    shares = [share(f"s{number}", hook=hook) for number, hook in enumerate(hooks)]
    site.write("", "".join(shares))
    found = {ours.name for ours in site.load().shares}
    assert [hook for number, hook in enumerate(hooks) if f"s{number}" in found] == ours


@by_samba
def test_copy_takes_everything_but_the_name(site: Site) -> None:
    site.write(
        "",
        share("template", "/srv/template", "    rvss:nested = include\n")
        + "[vms]\n    copy = template\n    path = /srv/vms\n",
    )
    vms = section(site.load(), "vms").share
    assert vms is not None
    assert (vms.path, vms.nested) == ("/srv/vms", Nested.INCLUDE)


@by_samba
def test_includes(site: Site) -> None:
    (site.directory / "more.conf").write_text(share("included", "/srv/included"))
    (site.directory / "deeper.conf").write_text("[deeper]\n    path = /srv/deeper\n")
    with (site.directory / "more.conf").open("a") as more:
        more.write(f"include = {site.directory}/deeper.conf\n")
    site.write("", share("vms") + f"include = {site.directory}/more.conf\n")
    config = site.load()
    assert [entry.name for entry in config.sections] == ["vms", "included", "deeper"]
    # Samba finds a share of an included file, but not when it exposes a copy of it.
    assert [ours.name for ours in config.shares] == ["vms"]
    assert "it stands in an included file" in section(config, "included").reason
    assert config.files == (
        str(site.file),
        f"{site.directory}/more.conf",
        f"{site.directory}/deeper.conf",
    )


def test_a_file_that_includes_itself(site: Site) -> None:
    site.write("", share("vms") + f"include = {site.file}\n")
    with pytest.raises(RvssError, match="Maximum include depth") as caught:
        site.load()
    assert caught.value.problem is Problem.CONFIG


def test_a_file_that_is_included_twice(site: Site) -> None:
    (site.directory / "more.conf").write_text("    read only = yes\n")
    more = f"    include = {site.directory}/more.conf\n"
    site.write("", share("a", "/srv/a", more) + share("b", "/srv/b", more))
    config = site.load()
    assert [ours.name for ours in config.shares] == ["a", "b"]
    assert set(config.files) == {str(site.file), f"{site.directory}/more.conf"}


@by_samba
def test_odd_names_and_paths(site: Site) -> None:
    site.write("", share("My VMs & (x)", "/srv/My VMs & (x)") + share("Ünï", "/srv/Ünï#;"))
    assert [(ours.name, ours.path) for ours in site.load().shares] == [
        ("My VMs & (x)", "/srv/My VMs & (x)"),
        ("Ünï", "/srv/Ünï#;"),
    ]


# the registry


def _in_registry(site: Site, name: str, values: Mapping[str, str]) -> None:
    site.net("addshare", name, "/srv/registry", "writeable=y")
    for key, value in values.items():
        site.net("setparm", name, key, value)


def _commands() -> dict[str, str]:
    verbs = {"check path": "check", "create": "create", "delete": "delete"}
    return {
        "vfs objects": "shell_snap",
        **{f"shell_snap:{key} command": f"{HOOK} {verb}" for key, verb in verbs.items()},
    }


@by_samba
def test_shares_of_the_registry(site: Site) -> None:
    site.write("", share("vms"))
    _in_registry(site, "kept", {**_commands(), "rvss:nested": "include"})
    config = site.load()
    assert [(ours.name, ours.path) for ours in config.shares] == [
        ("vms", "/srv/vms"),
        ("kept", "/srv/registry"),
    ]
    kept = section(config, "kept")
    assert kept.registry
    assert not section(config, "vms").registry
    assert kept.share is not None
    assert kept.share.nested is Nested.INCLUDE


def test_shares_of_the_registry_take_from_others(site: Site) -> None:
    site.write("", share("template"))
    _in_registry(site, "kept", {"copy": "template"})
    assert [(ours.name, ours.path) for ours in site.load().shares] == [
        ("template", "/srv/vms"),
        ("kept", "/srv/registry"),
    ]


@by_samba
def test_a_share_in_both_places_is_what_samba_takes_it_for(site: Site) -> None:
    """The registry's word comes last, as testparm and smbd have it."""
    site.write("", share("vms", more="    rvss:nested = include\n"))
    _in_registry(site, "VMS", _commands())
    (vms,) = site.load().shares
    said = run(["testparm", "--suppress-prompt", str(site.file)], timeout=30)
    assert f"path = {vms.path}\n" in said
    assert (vms.name, vms.path) == ("vms", "/srv/registry")


def test_an_exposed_share_sees_its_base_share_s_name(site: Site) -> None:
    """Where Samba puts the name of the share that a client connects to."""
    exposed = "VMs@{0f0e0d0c-0b0a-0908-0706-050403020100}"
    globals_ = "    valid users = %S\n    invalid users = x%S\n    log file = /var/log/%S\n"
    site.write(globals_, share("VMs"))
    own = {"write list": "%S", "root preexec": "/bin/x %S %S", "invalid users": '"c,d", %S'}
    _in_registry(site, exposed, own)
    (base,) = site.load().shares
    amendment = Amendment(closed=False, writers=Writers.LISTED, base="VMs", named=base.named)

    def amend() -> tuple[str, ...]:
        with closing(SambaProcess()) as samba:
            return samba.call(registry.amend, str(site.file), {exposed: amendment})

    assert amend() == (exposed,)
    found = dict(re.findall(r"\t(.+?) = (.*)", site.net("showshare", exposed)))
    assert {key: found.get(key) for key in (*own, "valid users", "log file")} == {
        "write list": "VMs",
        "root preexec": "/bin/x VMs VMs",
        "invalid users": '"c,d", VMs',
        "valid users": "VMs",
        "log file": None,
    }
    assert amend() == ()


@by_samba
def test_options_in_the_registry_are_checked_too(site: Site) -> None:
    site.write("", share("vms"))
    _in_registry(site, "kept", {"rvss:nestde": "yes"})
    config = site.load()
    assert any(
        note.startswith("[kept] has the unknown option 'rvss:nestde'") for note in config.notes
    )


def test_exposed_shadow_copies_are_no_shares_of_the_administrator_s(site: Site) -> None:
    site.write("", share("vms"))
    _in_registry(site, "vms@{0f0e0d0c-0b0a-0908-0706-050403020100}", _commands())
    _in_registry(site, "vms@{not-a-guid}", {})
    assert [entry.name for entry in site.load().sections] == ["vms", "vms@{not-a-guid}"]


def test_without_the_registry(site: Site) -> None:
    """It is not even opened: a file server without it may not have one."""
    site.write("", share("vms"), registry=False)
    config = site.load()
    assert [ours.name for ours in config.shares] == ["vms"]
    assert not (site.directory / "state" / "registry.tdb").exists()


# advice


def test_warnings(site: Site) -> None:
    site.write(
        "    rpcd_fsrvp:num_workers = 5\n    rpcd_fsrvp:idle_seconds = 60\n"
        "    fss:prune stale = yes\n",
        share("vms"),
        registry=False,
    )
    first, second, third, fourth = site.load().warnings
    assert "'registry shares'" in first
    assert "'rpcd_fsrvp:num_workers = 1'" in second
    assert "'rpcd_fsrvp:idle_seconds = 10'" in third
    assert "'fss:prune stale'" in fourth


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", Clocks(short=180, long=1800, idle=10)),
        ("fss:sequence timeout = 3", Clocks(short=3, long=3, idle=10)),
        ("fss:sequence timeout = 0", Clocks(short=math.inf, long=math.inf, idle=10)),
        ("fss:sequence timeout = 0x10 s", Clocks(short=16, long=16, idle=10)),
        ("rpcd_fsrvp:idle_seconds = 2", Clocks(short=180, long=1800, idle=2)),
        ("rpcd_fsrvp:idle_seconds = -1", Clocks(short=180, long=1800, idle=math.inf)),
        ("rpcd_fsrvp:idle_seconds = soon", Clocks(short=180, long=1800, idle=0)),
    ],
)
def test_clocks_of_samba(site: Site, lines: str, expected: Clocks) -> None:
    site.write(f"    {lines}\n", share("vms"))
    assert site.load().clocks == expected


# change


@pytest.mark.vm(seconds=3, change="registry")
@pytest.mark.parametrize("change", ["file", "included", "registry", "included appears"])
def test_signature_tells_of_changes(site: Site, change: str) -> None:
    included = site.directory / "more.conf"
    if change != "included appears":
        included.write_text("[data]\n    path = /srv\n")
    site.write("", share("vms") + f"include = {included}\n")
    site.net("list")
    config = site.load()
    before = conf.signature(config)
    assert conf.signature(config) == before
    match change:
        case "file":
            site.write("", share("vms2") + f"include = {included}\n")
        case "included":
            included.write_text("[data]\n    path = /srv2\n")
        case "included appears":
            included.write_text("[data]\n    path = /srv2\n")
        case "registry":
            site.net("addshare", "new", "/srv/new")
    assert conf.signature(config) != before


def test_what_was_changed_while_it_was_read_has_no_signature(site: Site) -> None:
    site.write("", share("vms"))
    time.sleep(0.3)  # more than the times of files are behind the clock
    site.net("addshare", "new", "/srv/new")
    config = site.load()
    current = conf.signature(config)
    changed = max(Path(file).stat().st_ctime for file in config.files)
    assert conf.signature_of_read(config, changed - 1) == ()
    assert conf.signature_of_read(config, changed) == ()
    changed = (site.directory / "state" / "registry.tdb").stat().st_ctime
    # Of the files it is known what was read: python-samba's process need not be another one.
    assert conf.signature_of_read(config, changed) == (*current[:-1], None)
    assert conf.signature_of_read(config, changed + 1) == current


# the words of a callout


def _config(*paths: str) -> Config:
    shares = [Share(name=f"share{number}", path=path) for number, path in enumerate(paths)]
    return replace(
        CONFIG,
        sections=tuple(
            Section(name=ours.name, path=ours.path, registry=False, share=ours, reason="")
            for ours in shares
        ),
    )


@pytest.mark.parametrize(
    "words",
    [
        ("/srv/My", "VMs", "&", "(x)"),
        ("/srv/My VMs & (x)",),
        ("/srv/My", "", "VMs", "&", "(x)"),
        ("/srv/My  VMs\t&", "(x)"),
    ],
)
def test_blanks_do_not_matter(words: tuple[str, ...]) -> None:
    config = _config("/srv/vms", "/srv/My VMs & (x)", "/srv/My")
    assert find_share(config, words).path == "/srv/My VMs & (x)"


def test_blanks_in_the_configured_path_do_not_matter() -> None:
    assert find_share(_config("/srv/a \t b"), ("/srv/a", "b")).path == "/srv/a \t b"


def test_paths_that_differ_in_blanks_only_are_refused() -> None:
    with pytest.raises(RvssError, match="share0, share2 differ only in blanks") as caught:
        find_share(_config("/srv/a b", "/srv/x", "/srv/a  b"), ("/srv/a", "b"))
    assert caught.value.problem is Problem.NOT_OURS


def test_two_shares_of_one_path_are_one() -> None:
    assert find_share(_config("/srv/a", "/srv/a"), ("/srv/a",)).path == "/srv/a"


@pytest.mark.parametrize("words", [("/srv",), ("/srv/vms/",), ("/srv/vms", "x"), ("",), ()])
def test_other_paths_are_not_ours(words: tuple[str, ...]) -> None:
    with pytest.raises(RvssError, match="samba-rvss shares") as caught:
        find_share(_config("/srv/vms"), words)
    assert caught.value.problem is Problem.NOT_OURS


_words = st.lists(st.text(max_size=8), max_size=5).map(tuple)


@given(st.lists(st.text(min_size=1, max_size=12), max_size=4), _words)
def test_a_share_is_found_only_for_its_own_path(paths: list[str], words: tuple[str, ...]) -> None:
    folded = " ".join(" ".join(words).split())
    found: Share | None = None
    with suppress(RvssError):
        found = find_share(_config(*paths), words)
    if found is not None:
        assert " ".join(found.path.split()) == folded


@given(st.text(st.characters(blacklist_characters="\0/"), min_size=1, max_size=20))
def test_what_sh_makes_of_a_path_is_found(name: str) -> None:
    """Blanks, as sh splits at them, may be lost; nothing else is."""
    path = f"/srv/{name}"
    words = tuple(word for word in re.split(r"[ \t\n]+", path) if word)
    if words:
        assert find_share(_config(path), words).path == path


# what the registry's own shares are called


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("vms@{0f0e0d0c-0b0a-0908-0706-050403020100}", "vms"),
        ("vms$@{0f0e0d0c-0b0a-0908-0706-050403020100}$", "vms$"),
        ("a@{b}@{0f0e0d0c-0b0a-0908-0706-050403020100}", "a@{b}"),
        ("vms@{0f0e0d0c-0b0a-0908-0706-05040302010}", None),
        ("vms@{0f0e0d0c-0b0a-0908-0706-050403020100}x", None),
        ("@{0f0e0d0c-0b0a-0908-0706-050403020100}", None),
    ],
)
def test_names_of_exposed_shares(name: str, base: str | None) -> None:
    match = EXPOSED.fullmatch(name)
    assert (match and match["share"]) == base


def test_the_example_is_found_by_the_words_that_it_gives(site: Site) -> None:
    site.write("", share("My VMs", "/srv/My VMs"))
    config = site.load()
    assert find_share(config, ("/srv/My", "VMs")) == config.shares[0]
