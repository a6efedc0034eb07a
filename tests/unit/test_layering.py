"""Imports run downward: the table of the architecture, enforced on every import statement."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import samba_rvss

PACKAGE = Path(samba_rvss.__file__).parent

README = PACKAGE.parent / "README.md"


def _table() -> dict[str, frozenset[str]]:
    """Return each room of the README's table with the rooms that it may use, in its order."""
    found: dict[str, frozenset[str]] = {}
    for line in README.read_text("utf-8").splitlines():
        row = re.fullmatch(r"\| `(\w+)/?` \|.*\| ?((?:`\w+` ?)*)\|", line)
        if row:
            assert row[1] not in found, line
            found[row[1]] = frozenset(re.findall(r"`(\w+)`", row[2]))
    return found


# A room may always use itself, and all but the hook may read the package's version. A module
# without a line in the README's table fails: give it a room there.
MAY_USE = {"__init__": frozenset[str](), **_table(), "__main__": frozenset({"cli"})}
ROOTS = frozenset({"__init__"})
LONGEST = 400

# Modules that may import by name, which this test cannot follow, and why.
BY_NAME = {
    "cli/lazily": "it loads a verb's module, which a table of its room names",
    "child": "it calls the function that its owner, the same program, names",
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def _imports(module: tuple[str, ...], source: str) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name of everything that a module imports, wherever it does so."""
    package = ("samba_rvss", *module[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _room(dotted: str) -> str | None:
    """Return the room that an imported name belongs to, or None if it is not ours."""
    first, *rest = dotted.split(".")
    if first != "samba_rvss":
        return None
    if rest and ((PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").is_file()):
        return rest[0]
    return "__init__"


def _violations(module: tuple[str, ...], source: str) -> Iterator[str]:
    room = module[0]
    allowed = MAY_USE[room] | {room} | (frozenset() if room == "hook" else ROOTS)
    for line, dotted in _imports(module, source):
        used = _room(dotted)
        if used is not None and used not in allowed:
            yield f"line {line}: {'/'.join(module)} must not import {dotted}"


def test_imports_run_downward() -> None:
    unknown = [name for name in map(_name, MODULES) if name[0] not in MAY_USE]
    assert unknown == [], "give them a room"
    found = [line for path in MODULES for line in _violations(_name(path), path.read_text())]
    assert found == []


def test_no_import_escapes_the_table() -> None:
    """Import by statement, never by name."""
    by_name = {"__import__", "import_module", "importlib.import_module"}
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        if "/".join(_name(path)) not in BY_NAME
        for node in ast.walk(ast.parse(path.read_bytes(), str(path)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in by_name
    ]
    assert found == []


def test_no_arrow_of_the_table_runs_upward() -> None:
    before: set[str] = set()
    for room, uses in MAY_USE.items():
        assert uses <= before, f"{room} uses what comes after it: {sorted(uses - before)}"
        before.add(room)


def test_the_table_says_what_is_used_and_no_more() -> None:
    used: dict[str, set[str]] = {room: set() for room in MAY_USE}
    for path in MODULES:
        room = _name(path)[0]
        found = {_room(dotted) for _, dotted in _imports(_name(path), path.read_text())}
        used[room] |= {other for other in found if other} - {room} - ROOTS
    assert {room: sorted(MAY_USE[room]) for room in MAY_USE} == {
        room: sorted(some) for room, some in used.items()
    }


def test_no_module_is_too_long() -> None:
    """One that is wants a second noun."""
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_providers_and_samba_do_not_know_each_other() -> None:
    assert "samba" not in MAY_USE["providers"]
    assert "providers" not in MAY_USE["samba"]


def test_the_daemon_has_nothing_of_python_samba() -> None:
    """That lives in children: it blocks, it crashes, and its libraries take 10 MiB."""
    code = (
        "import sys, samba_rvss.cli.daemon, samba_rvss.cli.judge, samba_rvss.daemon.service;"
        "print(*(m for m in sys.modules if m.partition('.')[0] in ('samba', 'ldb', 'talloc')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, check=True, capture_output=True
    )
    assert done.stdout.split() == []


def test_hook_imports_what_costs_nothing() -> None:
    source = (PACKAGE / "hook.py").read_text()
    assert {dotted for _, dotted in _imports(("hook",), source)} == {
        "sys",
        "posix",
        "time",
        "_socket",
    }


def test_violation_is_found() -> None:
    """The test itself: imports inside functions and relative ones count."""
    source = (
        "from samba_rvss.errors import RvssError\n"
        "from samba_rvss import __version__, kernel\n"
        "from . import btrfs\n"
        "def f():\n"
        "    from ..samba import conf\n"
        "    import samba_rvss.samba.registry\n"
        "    from samba_rvss import samba\n"
    )
    found = list(_violations(("providers", "new"), source))
    assert [line.split(":")[0] for line in found] == ["line 5", "line 6", "line 7"]
