"""``rvss-backup.conf``: the definitions of managed backups, beside smb.conf and in its syntax.

It is a file of its own because what it says is for our command alone, and names programs that run
as root: smb.conf is read by every user who takes shadow copies, testparm(1) warns of sections that
are no shares, and what stands in Samba's registry counts for nothing here. Contract: nothing is
run. What is wrong with a definition is said by the name of its option and section, and takes out
that definition alone. Whatever runs as root stands where root alone can write.
"""

import errno
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from samba_rvss.backups import policy, selection
from samba_rvss.backups.policy import Policy
from samba_rvss.backups.selection import Selection
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, paths
from samba_rvss.samba import authentication, notification, written
from samba_rvss.samba.conf import Config
from samba_rvss.samba.options import age, seconds
from samba_rvss.samba.parser import lower_case
from samba_rvss.samba.values import Parameters, boolean, listed, plain, string

NAME = "rvss-backup.conf"
LONGEST_COMMAND = 1500.0
"""Seconds: MS-FSRVP has a server give a set up after 1800 s without a call (3.1.2.1)."""

_LARGEST = 1 << 20
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})")
_SHARE = re.compile(r"[^\x00-\x1f\x7f/\\]{1,80}")


class Wanted(Enum):
    """Which consistency a run has to reach."""

    APPLICATION = "application"
    CRASH = "crash"
    EITHER = "either"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A managed backup. Commands are words: a program's absolute path, and its arguments.

    Attributes:
        name: of its section.
        shares: the shares that are one shadow copy set.
        server: whose they are; empty for our own Samba.
        selection: which files it is about.
        consistency: what a run has to reach.
        preexec: run before the Commit.
        preexec_close: whether nothing is taken if that fails.
        postexec: run after the Commit, however that ends, once `preexec` was begun.
        recovery_command: makes the exposed copies consistent.
        command_timeout: seconds that each command may take.
        retention: the rules of its backups; None for those of its shares.
        warn_age: how old its newest backup may be, in seconds; None if that does not matter.
        notify_command: told of a run that failed.
        authentication_file: a file with a user and his password; empty for none.
        machine_account: whether this machine's account in its domain logs on.
        use_kerberos: whether with a ticket, and not with NTLM.
    """

    name: str
    shares: tuple[str, ...]
    server: str = ""
    selection: Selection = field(default=Selection())
    consistency: Wanted = Wanted.EITHER
    preexec: tuple[str, ...] = ()
    preexec_close: bool = False
    postexec: tuple[str, ...] = ()
    recovery_command: tuple[str, ...] = ()
    command_timeout: float = 300.0
    retention: Policy | None = None
    warn_age: float | None = None
    notify_command: tuple[str, ...] = ()
    authentication_file: str = ""
    machine_account: bool = False
    use_kerberos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Definitions:
    """What the file says.

    Attributes:
        file: its path, whether it is there or not.
        good: the definitions that nothing is wrong with.
        wrong: by name, why one is not good: a sentence on each thing.
        refused: why nothing in the file counts; empty if it does.
    """

    file: str
    good: tuple[Definition, ...] = ()
    wrong: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence on each thing that is wrong."""
        found = [line for lines in self.wrong.values() for line in lines]
        return (self.refused, *found) if self.refused else tuple(found)

    def get(self, name: str) -> Definition:
        """Return a definition by its name.

        Raises:
            RvssError: CONFIG if something is wrong with it, or the file is refused; NOT_FOUND.
        """
        if self.refused:
            raise RvssError(Problem.CONFIG, self.refused)
        for each in self.good:
            if each.name == name:
                return each
        if name in self.wrong:
            raise RvssError(Problem.CONFIG, "; ".join(self.wrong[name]))
        names = [*(each.name for each in self.good), *self.wrong]
        known = ", ".join(sorted(filter(selection.is_name, names)))
        odd = [
            line for each in self.wrong if not selection.is_name(each) for line in self.wrong[each]
        ]
        raise RvssError(
            Problem.NOT_FOUND,
            f"there is no backup {name!r} in {self.file}",
            "; ".join([f"there are {known}" if known else "write a section for it", *odd]),
        )


def path_of(config: Config) -> str:
    """Return where the definitions of an instance are."""
    return os.path.join(os.path.dirname(os.path.abspath(config.file)), NAME)


def load(config: Config) -> Definitions:
    """Read the definitions of an instance; there may be none.

    Args:
        config: what smb.conf says.
    """
    file = path_of(config)
    try:
        text = _read(file)
    except FileNotFoundError:
        return Definitions(file=file)
    except (OSError, paths.Replaceable) as exc:
        reason = f"{file} is refused: {notification.why(exc)}"
        if isinstance(exc, paths.Replaceable):
            reason += ": let root alone write it"
        return Definitions(file=file, refused=reason)
    return parse(text, file, config)


def _read(file: str) -> str:
    with files.opened(os.open(paths.resolve(file, file=True), os.O_RDONLY | os.O_NOFOLLOW)) as fd:
        if os.fstat(fd).st_size > _LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), file)
        return os.read(fd, _LARGEST).decode("utf-8", "surrogateescape")


def parse(text: str, file: str, config: Config) -> Definitions:
    """Return what a text defines; the arguments are those of `Definitions` and `load`."""
    good: list[Definition] = []
    wrong: dict[str, tuple[str, ...]] = {}
    seen: dict[str, str] = {}
    odd = list(written.passed_over(text))
    for part in written.parse(text):
        name = "" if part.section is None else part.section
        lines = [line for section, line in odd if section == part.section]
        if part.section is None and not part.parameters and not lines:
            continue
        where = f"[{name}] in {file}" if name else f"what stands before the first section of {file}"
        twin = seen.setdefault(lower_case(name), name)
        problems = [f"{line[:80]!r} is neither '[NAME]' nor 'OPTION = VALUE'" for line in lines]
        if not selection.is_name(name) or written.is_global(part.section):
            problems.append(
                "a section is a backup, and its name at most 64 letters, digits and . _ -"
            )
        elif name in wrong or any(each.name == name for each in good) or twin != name:
            problems.append("there is a second section of that name: write one")
            good = [each for each in good if each.name != twin]
            wrong.setdefault(twin, (f"{where}: {problems[-1]}",))
        else:
            made = _definition(name, part.parameters, config, problems)
            if made is not None:
                good.append(made)
                continue
        wrong[name] = tuple(f"{where}: {problem}" for problem in problems)
    return Definitions(file=file, good=tuple(good), wrong=wrong)


def _definition(
    name: str, parameters: tuple[written.Parameter, ...], config: Config, problems: list[str]
) -> Definition | None:
    """Return a definition; None if something is wrong with it, which is added to problems."""
    own = Parameters(dict(parameters))
    known = {plain(option): option for option in _OPTIONS}
    values: dict[str, Any] = {}
    spellings = Counter(plain(option) for option, _ in parameters)
    problems += [
        f"'{each}' stands there twice: write one" for each in own if spellings[plain(each)] > 1
    ]
    for option, text in own.items():
        spelt = known.get(plain(option))
        if spelt is None:
            problems.append(f"'{option}' is no option of a backup; see samba-rvss-backup.conf(5)")
            continue
        try:
            values[spelt] = _OPTIONS[spelt](text)
        except ValueError as exc:
            problems.append(f"'{spelt} = {text}' is refused: {exc}")
    if not problems:
        problems.extend(_contradictions(values, config))
    for option in _COMMANDS:
        if values.get(option):
            try:
                notification.require_program(values[option], option)
            except RvssError as exc:
                problems.append(exc.line())
    if problems:
        return None
    chosen = Selection(files=values.pop("files", ()), veto=values.pop("veto files", ()))
    fields = {option.replace(" ", "_"): value for option, value in values.items()}
    fields.setdefault("use_kerberos", fields.get("machine_account", False))
    return Definition(name=name, selection=chosen, **fields)


def _contradictions(values: Mapping[str, Any], config: Config) -> list[str]:
    """Return what is wrong with options that are good each by itself."""
    found = []
    get = values.get
    shares = get("shares", ())
    if not shares:
        found.append("'shares' is missing: name the shares that the backup is of")
    if get("server"):
        found += [
            f"'{option}' is for backups that are kept here, and those of 'server' are not"
            for option in ("retention", "files", "veto files")
            if get(option)
        ]
    else:
        found += [
            f"'shares': {share} is no share of ours in {config.file}; see 'samba-rvss shares'"
            for share in shares
            if config.share(share) is None
        ]
        found += _one_directory(shares, config)
    if len({lower_case(share) for share in shares}) < len(shares):
        found.append("'shares' names one twice")
    if not selection.fits(get("files", ()), get("veto files", ())):
        found.append(
            f"'files' and 'veto files' are too long: at most {selection.MOST} bytes fit an image"
        )
    wanted, recovery = get("consistency", Wanted.EITHER), get("recovery command")
    if wanted is Wanted.APPLICATION and not recovery:
        found.append("'consistency = application' needs a 'recovery command', which proves it")
    if wanted is Wanted.CRASH and recovery:
        found.append("'recovery command' is not run with 'consistency = crash'")
    if get("preexec close") and not get("preexec"):
        found.append("'preexec close' needs a 'preexec'")
    if bool(get("authentication file")) == bool(get("machine account")):
        found.append("who logs on is said by 'authentication file' or 'machine account = yes'")
    elif file := get("authentication file"):
        try:
            authentication.require_private(file)
        except RvssError as exc:
            found.append(f"'authentication file': {exc.line()}")
    return found


def _one_directory(shares: Iterable[str], config: Config) -> Iterator[str]:
    """Yield what is wrong with shares that are the same one: no set can have a directory twice.

    Source: source3/rpc_server/fss/srv_fss_agent.c, _fss_AddToShadowCopySet().
    """
    known: dict[str, str] = {}
    for name in shares:
        share = config.share(name)
        if share is not None:
            other = known.setdefault(os.path.normpath(share.path), name)
            if lower_case(other) != lower_case(name):
                yield f"'shares': {other} and {name} are one directory: name one of them"


# How the value of each option is read; ValueError says what is wanted instead.


def _shares(text: str) -> tuple[str, ...]:
    found = listed(text)
    if not found or not all(map(_SHARE.fullmatch, found)):
        raise ValueError("names of shares are wanted")
    return found


def _server(text: str) -> str:
    if not _HOST.fullmatch(string(text)):
        raise ValueError("the name or the address of a host is wanted")
    return string(text)


def _patterns(text: str) -> tuple[str, ...]:
    return selection.parse(string(text))


def _wanted(text: str) -> Wanted:
    try:
        return Wanted(string(text).strip().lower())
    except ValueError:
        raise ValueError("application, crash or either is wanted") from None


def _command(text: str) -> tuple[str, ...]:
    words, wrong = notification.split(string(text))
    if wrong:
        raise ValueError(wrong)
    if not words:
        raise ValueError("the absolute path of a program is wanted")
    return words


def _timeout(text: str) -> float:
    found = seconds(string(text))
    if found > LONGEST_COMMAND:
        raise ValueError(f"at most {LONGEST_COMMAND:g} s are possible: then servers give a set up")
    return found


def _file(text: str) -> str:
    if not string(text).startswith("/"):
        raise ValueError("an absolute path is wanted")
    return string(text)


def _kerberos(text: str) -> bool:
    word = string(text).strip().lower()
    if word in ("required", "off"):
        return word == "required"
    raise ValueError("required or off is wanted")


_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "shares": _shares,
    "server": _server,
    "files": _patterns,
    "veto files": _patterns,
    "consistency": _wanted,
    "preexec": _command,
    "preexec close": lambda text: boolean(string(text)),
    "postexec": _command,
    "recovery command": _command,
    "command timeout": _timeout,
    "retention": lambda text: policy.parse(string(text)),
    "warn age": lambda text: age(string(text)),
    "notify command": _command,
    "authentication file": _file,
    "machine account": lambda text: boolean(string(text)),
    "use kerberos": _kerberos,
}
_COMMANDS = ("preexec", "postexec", "recovery command", "notify command")
OPTIONS = tuple(_OPTIONS)
"""The names of the options."""
