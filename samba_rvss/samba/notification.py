"""``rvss:notify command``: which program is told of what goes wrong, and where that may be said.

Contract: nothing is run here. What is run as root stands in [global] of smb.conf itself, which root
alone can change. Samba's registry and included files count for nothing, for those who may edit
shares may often edit them; what stands there is named.
"""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import paths
from samba_rvss.samba.options import NOTIFY_COMMAND
from samba_rvss.samba.values import plain
from samba_rvss.samba.written import Parameter, Written

_NAME = f"rvss:{NOTIFY_COMMAND.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """What is to be run.

    Attributes:
        words: the program's absolute path and its arguments; empty if nothing is run.
        problems: a sentence on each thing that is wrong with the option, or with where it stands.
    """

    words: tuple[str, ...]
    problems: tuple[str, ...]


def command(
    file: str,
    own: Sequence[Parameter],
    included: Mapping[str, Sequence[Written]],
    registry: Sequence[Parameter],
    effective: str,
) -> Notify:
    """Tell what is to be run, by where the option stands.

    Args:
        file: smb.conf.
        own: the parameters of its [global], as written there.
        included: the parts of the files that it includes, by path.
        registry: the parameters of [global] in Samba's registry.
        effective: what Samba makes of all of these.
    """
    text = _last(own)
    problems = list(_elsewhere(file, included, registry))
    if not problems and effective and effective != NOTIFY_COMMAND.take(text):
        problems.append(f"'{_NAME} = {effective}' {_only(file)}")
    words, wrong = split(NOTIFY_COMMAND.take(text))
    if wrong:
        problems.append(f"'{_NAME} = {text}' is not run: {wrong}")
    elif words:
        try:
            paths.resolve(os.path.abspath(file), file=True)
        except (OSError, paths.Replaceable) as exc:
            words = ()
            problems.append(f"'{_NAME}' of {file} is not run: {why(exc)}; let root alone write it")
    return Notify(words=words, problems=tuple(problems))


def require_program(words: Sequence[str], name: str = _NAME) -> None:
    """Refuse a program that others than root could replace, or that is none.

    Args:
        words: its absolute path, and its arguments.
        name: the option that says so.

    Raises:
        RvssError: REFUSED or MISSING.
    """
    try:
        found = paths.resolve(words[0], file=True)
    except FileNotFoundError as exc:
        raise RvssError(
            Problem.MISSING, f"'{name}': there is no program {words[0]}", "install it"
        ) from exc
    except (OSError, paths.Replaceable) as exc:
        raise RvssError(
            Problem.REFUSED,
            f"'{name}': {words[0]} is not run: {why(exc)}",
            "name a program that belongs to root, where others can write to nothing on the way",
        ) from exc
    if not os.access(found, os.X_OK):
        raise RvssError(
            Problem.REFUSED, f"'{name}': {words[0]} is not run: it is not executable", "chmod it"
        )


def obstacle(words: Sequence[str]) -> str:
    """Return why the program of some words is not run; empty if it is, or there is none."""
    if words:
        try:
            require_program(words)
        except RvssError as exc:
            return exc.line()
    return ""


def _last(parameters: Sequence[Parameter]) -> str:
    found = [text for name, text in parameters if plain(name) == plain(_NAME)]
    return found[-1] if found else ""


def _elsewhere(
    file: str, included: Mapping[str, Sequence[Written]], registry: Sequence[Parameter]
) -> Iterator[str]:
    if _last(registry):
        yield f"'{_NAME}' in Samba's registry {_only(file)}"
    for path, parts in included.items():
        if any(_last(part.parameters) for part in parts):
            yield f"'{_NAME}' in {path} {_only(file)}"


def _only(file: str) -> str:
    return f"is not run: it counts in [global] of {file} itself, and nowhere else"


def split(text: str) -> tuple[tuple[str, ...], str]:
    """Return the words of a text, as a shell has them, or why it is not run."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as exc:
        return (), f"it cannot be split into words ({exc})"
    if words and not words[0].startswith("/"):
        return (), "the absolute path of a program is wanted"
    return words, ""


def why(exc: OSError | paths.Replaceable) -> str:
    """Return why a path is refused."""
    if isinstance(exc, OSError):
        return f"{exc.filename}: {exc.strerror}"
    return str(exc)
