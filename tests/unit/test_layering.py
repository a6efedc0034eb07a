"""Imports run downward: the table of the architecture, enforced on every import statement."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import samba_rvss

PACKAGE = Path(samba_rvss.__file__).parent

# Each room of the house, and the rooms that it may use. A room may always use itself, and all
# but the hook may read the package's version. A module without a line here fails: give it a room.
_GROUND = frozenset({"model", "errors", "kernel", "run"})
_FIRST = _GROUND | {"samba", "providers", "mounts", "ledger"}
_SECOND = _FIRST | {"target", "lifecycle"}
_DAEMON = _SECOND | {"reconcile", "backup", "wire", "access", "watcher", "instance", "report"}
MAY_USE: dict[str, frozenset[str]] = {
    "__init__": frozenset(),
    "model": frozenset(),
    "errors": frozenset(),
    "kernel": frozenset(),
    "hook": frozenset(),
    "run": frozenset({"errors"}),
    "wire": frozenset({"errors"}),
    "samba": _GROUND,
    "providers": _GROUND,
    "mounts": _GROUND,
    "ledger": _GROUND,
    "target": _FIRST,
    "lifecycle": _SECOND,
    "reconcile": _SECOND | {"watcher"},
    "backup": _SECOND,
    "access": _GROUND | {"samba"},
    "watcher": _SECOND,
    "instance": _SECOND,
    "report": _SECOND | {"reconcile", "wire"},
    "admin": _DAEMON,
    "boot": _DAEMON,
    "daemon": _DAEMON | {"admin"},
    "testing": _GROUND | {"samba"},
    "cli": _DAEMON | {"admin", "boot", "daemon", "testing"},
    "__main__": frozenset({"cli"}),
}
ROOTS = frozenset({"__init__"})

# Modules that may import by name, which this test cannot follow, and why.
BY_NAME = {
    "samba/process": "its child calls the function that its parent, the same program, names",
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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "/".join(_name(path)))
def test_imports_run_downward(path: Path) -> None:
    assert _name(path)[0] in MAY_USE, f"{path.relative_to(PACKAGE)} is unknown: give it a room"
    assert list(_violations(_name(path), path.read_text())) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "/".join(_name(path)))
def test_no_import_escapes_the_table(path: Path) -> None:
    if "/".join(_name(path)) in BY_NAME:
        return
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"__import__", "import_module", "importlib.import_module"}, (
                f"{path.relative_to(PACKAGE)}:{node.lineno}: import by statement, never by name"
            )


def test_table_has_no_circle() -> None:
    done: set[str] = set()
    while left := MAY_USE.keys() - done:
        ready = {room for room in left if MAY_USE[room] <= done | {room}}
        assert ready, f"these rooms use each other in a circle: {sorted(left)}"
        done |= ready


def test_providers_and_samba_do_not_know_each_other() -> None:
    assert "samba" not in MAY_USE["providers"]
    assert "providers" not in MAY_USE["samba"]


def test_hook_imports_what_costs_nothing() -> None:
    source = (PACKAGE / "hook.py").read_text()
    assert {dotted for _, dotted in _imports(("hook",), source)} == {"sys", "posix", "_socket"}


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
