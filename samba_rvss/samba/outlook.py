"""What a file would mean to Samba if it were smb.conf: each section's parameters, and its shares.

Contract: `look` reads with python-samba, and belongs into a process of its own; the rest is pure.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from samba_rvss.kernel import files
from samba_rvss.samba import conf, needs, registry, written
from samba_rvss.samba.conf import Config
from samba_rvss.samba.edited import Change
from samba_rvss.samba.parser import lower_case, open_context, sections_of
from samba_rvss.samba.values import Parameters, listed, plain
from samba_rvss.samba.written import is_global

_GLOBAL = "global"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a file means.

    Attributes:
        config: as samba-rvss understands it.
        sections: the parameters of the file's sections by their names, both as Samba compares them.
        registry: the shares of Samba's registry, if it serves them.
        misplaced: sentences on what stands in the wrong order in [global].
        elsewhere: whether Samba reads no more of the file than that it is to look elsewhere.
    """

    config: Config
    sections: Mapping[str, Mapping[str, str]]
    registry: frozenset[str]
    misplaced: tuple[str, ...]
    elsewhere: bool


def look(file: str) -> Outlook:
    """Read a file as Samba does.

    Raises:
        RvssError: as `samba_rvss.samba.conf.load`.
    """
    config = conf.load(file)
    context = open_context(file)
    sections = {
        lower_case(name): {plain(key): text for key, text in own.items()}
        for name, own in sections_of(context).items()
    }
    names: frozenset[str] = frozenset()
    if needs.serves_registry(Parameters(sections.get(_GLOBAL, {}))):
        with registry.reading() as database:
            names = frozenset(name for name in database.share_names() if not is_global(name))
    parameters = tuple(written.in_global(file))
    return Outlook(
        config=config,
        sections=sections,
        registry=names,
        misplaced=tuple(advice.what for advice in needs.order(parameters)),
        elsewhere=any(
            plain(key) == "configbackend" and plain(text) == "registry" for key, text in parameters
        ),
    )


def unwanted(before: Outlook, after: Outlook, changes: Iterable[Change]) -> Iterator[str]:
    """Yield what changes of a file would come to besides what they are meant to; half a sentence.

    Args:
        before: what the file means.
        after: what it would mean.
        changes: what is changed in it.
    """
    meant = {
        (_GLOBAL if is_global(change.section) else lower_case(change.section), plain(change.key)): (
            change
        )
        for change in changes
    }
    if meant and after.elsewhere:
        yield "Samba reads nothing else of it, because of 'config backend = registry'"
    new = sorted(after.registry - before.registry)
    if new:
        yield (
            f"shares that Samba's registry has would be served: {', '.join(new)}; see 'net conf"
            " list', and write 'registry shares = yes' if that is meant"
        )
    yield from (f"in [global] {said}" for said in after.misplaced if said not in before.misplaced)
    for section in sorted(before.sections.keys() | after.sections.keys()):
        old, now = before.sections.get(section, {}), after.sections.get(section, {})
        for key in sorted(old.keys() | now.keys()):
            if (section, key) not in meant and not _same(old.get(key), now.get(key)):
                yield f"'{key}' of [{section}] would be {now.get(key, 'gone')!r}"
    for (section, key), change in meant.items():
        # Samba does not tell what it has included.
        found = after.sections.get(section, {}).get(key)
        if key != "include" and not _same(found, change.value):
            is_now = f"is {found!r}" if found is not None else "is not"
            yield f"'{change.key}' of [{section}] {is_now} for Samba then: it is set elsewhere"


def _same(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return plain(one) == plain(other) or listed(one) == listed(other)


def of_text(text: str) -> int:
    """Return a descriptor of a file without a name that has a text; its path is in /proc."""
    fd = os.memfd_create("smb.conf", os.MFD_CLOEXEC)
    try:
        files.write(fd, os.fsencode(text))
    except BaseException:
        os.close(fd)
        raise
    return fd
