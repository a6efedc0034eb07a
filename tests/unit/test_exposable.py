"""What Samba cannot expose is known from smb.conf: as Samba's libraries have it, or as measured.

python-samba keeps the first registry that it opens, so each reading has a process of its own.
"""

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samba import smbconf as libsmbconf
from samba.samba3 import smbconf

from samba_rvss.run import run
from samba_rvss.samba import conf, written
from samba_rvss.samba.conf import Config
from samba_rvss.samba.parser import open_context, samba_speaks
from samba_rvss.samba.process import SambaProcess
from samba_rvss.testing.example import GLOBAL_EXAMPLE, share_section

pytestmark = pytest.mark.require("smbd")
by_samba = pytest.mark.vm(seconds=5)  # what its version decides

_CALLOUTS = "    vfs objects" + share_section("", "").partition("    vfs objects")[2]
_DIRECTORIES = ("state", "lock", "cache", "private")


@pytest.fixture
def file(reachable: Path) -> Path:
    """An smb.conf of those directories, with the README's [global]."""
    made = reachable / "smb.conf"
    for name in _DIRECTORIES:
        (reachable / name).mkdir()
    lines = [f"    {name} directory = {reachable}/{name}\n" for name in _DIRECTORIES[:3]]
    made.write_text(
        "[global]\n" + "".join(lines) + f"    private dir = {reachable}/private\n" + GLOBAL_EXAMPLE
    )
    made.chmod(0o644)
    return made


def _add(file: Path, *shares: tuple[str, str]) -> None:
    with file.open("a", encoding="utf-8", errors="surrogateescape") as config:
        for name, lines in shares:
            config.write(f"\n{share_section(name, f'/srv/{len(name)}')}{lines}\n")


def _load(file: Path) -> Config:
    with closing(SambaProcess()) as samba:
        return samba.call(conf.load, str(file))


def _obstacles(file: Path) -> dict[str, str]:
    return {share.name: share.obstacle for share in _load(file).shares}


def _refused(configfile: str, shares: tuple[str, ...]) -> dict[str, bool]:
    """Return whether Samba's registry refuses a clone of each share, as for its copies."""
    open_context(configfile)
    registry, found = smbconf.init_reg(None), {}
    with samba_speaks():
        source = libsmbconf.init_txt(configfile)
        for share in shares:
            try:
                registry.create_set_share(f"{share}@{{copy}}", source.get_share(share)[1])
            except (libsmbconf.SMBConfError, UnicodeDecodeError):
                found[share] = True
            else:
                found[share] = False
    return found


_LINES = {
    "unknown": "    frobnicate = yes",
    "misspelt": "    brwoseable = no",
    "of global": "    log level = 3",
    "of global, spelt": "    logLevel = 3",
    "forbidden": "    config backend = file",
    "no number": "    max connections = many",
    "nothing": "    max connections =",
    "twice": "    max connections = many\n    max connections = 3",
    "latin": "    comment = Caf\udce9",
    "latin name": "    caf\udce9 = yes",
    "fine": "    max connections = 3",
    "blank": "    max connections =  +3 of them",
    "hexadecimal": "    max connections = 0x10",
    "synonyms": "    public = no\n    browsable = Yes\n    create mode = 0640",
    "spelt": "    GUEST  ok = no\n    createmask = 09",
    "colon": "    foo:bar = baz\n    fruit : metadata = stream\n    :x = y",
    "emoji": "    comment = \U0001f600",
    "empty": "    comment =\n    valid users =\n    veto files =",
    "no sign": "    just a line",
    "valid": "    -valid = yes",
    "lists": "    hosts allow = 127. EXCEPT 127.0.0.9\n    case sensitive = Auto",
    "continued": "    comment = a \\\n  b\n    frobni\\\ncate = 1",
    "remark": "    # frobnicate = yes\n    ; log level = 3 \\\n    comment = c",
}


@by_samba
def test_an_option_is_refused_if_samba_s_registry_refuses_it(file: Path) -> None:
    _add(file, *_LINES.items())
    with closing(SambaProcess()) as samba:
        expected = samba.call(_refused, str(file), tuple(_LINES))
    found = _obstacles(file)
    assert {share: bool(found[share]) for share in _LINES} == expected
    assert {share for share in expected if expected[share]} == {
        *list(_LINES)[:10],
        "continued",
    }
    for share, name in (
        ("unknown", "frobnicate"),
        ("of global", "log level"),
        ("latin", "comment"),
    ):
        assert f"'{name}'" in found[share]
    assert "'max connections = many', which is no number" in found["no number"]


@given(st.text(alphabet="[]=#;\\ \n\t\rab\v:\f\0", max_size=40))
def test_a_file_is_read_as_samba_s_library_reads_it(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n") as made:
        made.write(f"[s]\n{text}")
        made.flush()
        try:
            expected = libsmbconf.init_txt(made.name).get_config()
        except libsmbconf.SMBConfError:
            return  # no Samba takes such a file
        found = written.sections(written.read(made.name))
    wanted: dict[str, tuple[tuple[str, str], ...]] = {}
    for name, parameters in expected:
        wanted[name.lower()] = wanted.get(name.lower(), ()) + tuple(parameters)
    assert dict(found) == wanted


@by_samba
def test_names_that_make_the_registry_unreadable(file: Path) -> None:
    """The exposed name may have 255 bytes: `<share>@{<36>}`, and one more for a hidden share."""
    fits = ("あ" * 72, "い" * 71 + "a$", "x" * 216)
    too_long = ("う" * 73, "い" * 71 + "ab$", "x" * 217)
    _add(file, *((name, "") for name in (*fits, *too_long)))
    found = _obstacles(file)
    assert [found[name] for name in fits] == ["", "", ""]
    assert ["shorter by" in found[name] for name in too_long] == [True] * 3
    assert "would have 258 bytes" in found["う" * 73]


def test_what_stands_elsewhere_than_in_the_section(file: Path, reachable: Path) -> None:
    for name, text in {
        "commands": "    hide dot files = no\n[other]\n    path = /tmp\n",
        "place": f"    include = {reachable}/deeper.conf\n",
        "deeper": "    PATH = /srv/live\n",
        "person.alice": "    path = /srv/alice\n",
        "parts": "[parted]\n    valid users = alice\n    rvss:nested = refuse\n[whole]\n path=/\n",
    }.items():
        (reachable / f"{name}.conf").write_text(text)
    _add(
        file,
        ("harmless", f"    include = {reachable}/commands.conf"),
        ("missing", f"    include = {reachable}/missing.conf"),
        ("led away", f"    include = {reachable}/place.conf"),
        ("personal", f"    include = {reachable}/person.%U.conf"),
        ("before", f"    include = {reachable}/parts.conf"),
        ("parted", ""),
        ("whole", ""),
    )
    found = _obstacles(file)
    assert [name for name in found if found[name]] == ["led away", "personal", "parted"]
    assert f"its section includes {reachable}/deeper.conf, which sets 'path'" in found["led away"]
    assert f"{reachable}/person.alice.conf" in found["personal"]
    assert f"a part of it stands in {reachable}/parts.conf" in found["parted"]
    assert "would lack 'valid users'" in found["parted"]


@by_samba
def test_a_share_in_both_places(file: Path) -> None:
    """Samba exposes what smb.conf has of it, and the registry counts for the share itself."""
    file.write_text(f"{file.read_text()}{_CALLOUTS}")
    _add(file, ("vms", ""))
    net = ["net", f"--configfile={file}", "conf"]
    run([*net, "addshare", "vms", "/srv/registry", "writeable=y", "guest_ok=y"], timeout=30)
    found = _obstacles(file)["vms"]
    assert "a part of it stands in the registry" in found
    assert "would lack 'guest ok'" in found


def test_a_share_in_an_included_file_is_named_unless_it_only_takes_after_global(
    file: Path, reachable: Path
) -> None:
    (reachable / "more.conf").write_text(
        f"{share_section('meant', '/srv/meant')}[print$]\n    path = /srv/print\n"
    )
    file.write_text(f"{file.read_text()}{_CALLOUTS}")
    _add(file, ("vms", f"    include = {reachable}/more.conf"))
    found = {each.name: (each.unfit, each.inherits) for each in _load(file).sections}
    assert found == {"vms": (False, False), "meant": (True, False), "print$": (True, True)}


def test_without_registry_shares_nobody_could_connect(file: Path) -> None:
    file.write_text(f"{file.read_text()}    registry shares = no\n")
    _add(file, ("vms", ""))
    assert "'registry shares' is off" in _obstacles(file)["vms"]
