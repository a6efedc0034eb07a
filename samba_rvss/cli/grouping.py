"""What backups are pruned together, and by which rules: by definitions, else by their shares.

Contract: whatever is not certain lets nothing go: a definition that something is wrong with, or
that is not there any more, keeps its backups.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC

from samba_rvss.backups import pruning
from samba_rvss.backups.policy import Policy
from samba_rvss.copies.backup import Backup
from samba_rvss.samba.conf import Config
from samba_rvss.samba.definitions import Definitions
from samba_rvss.samba.parser import lower_case


def as_pruned(found: Backup, defined: Definitions) -> pruning.Backup:
    """Return a backup as far as pruning looks at it.

    Args:
        found: the backup.
        defined: what there is in rvss-backup.conf.
    """
    if found.run is not None and _has_group(defined, found.run.name):
        groups = frozenset(_groups(found, found.run.name, defined))
    elif not found.seen and (defined.good or defined.problems):
        groups = frozenset()  # it may be a definition's, and count among no others
    else:
        groups = frozenset(part.volume.group for part in found.parts)
    return pruning.Backup(
        id=found.id,
        groups=groups,
        taken=found.taken.astimezone(UTC),
        consistent=found.is_consistent,
        holds=tuple((hold.tag, hold.until) for hold in found.holds),
        tags=found.tags,
        # What cannot be seen may be held.
        unseen=not found.seen,
        damaged=found.damaged,
        unfinished=found.unfinished,
        size=found.size,
    )


def group_of(name: str) -> str:
    """Return the group of the backups of a definition; volumes' have a colon in theirs."""
    return f"backup {name}"


def _groups(found: Backup, name: str, defined: Definitions) -> Iterator[str]:
    """Yield the groups of a backup of a definition.

    Of a share that the definition does not name any more, no newer backup comes: what there is of
    it must not be pushed out by backups of other shares, and is a group besides.
    """
    yield group_of(name)
    for each in defined.good:
        if each.name == name:
            named = set(map(lower_case, each.shares))
            for share in found.shares:
                if lower_case(share) not in named:
                    yield _of_share(name, share)


def _of_share(name: str, share: str) -> str:
    return f"{group_of(name)} of {lower_case(share)}"


def policies(
    defined: Definitions, config: Config, found: Iterable[Backup] = ()
) -> Mapping[str, Policy | None]:
    """Return the rules of each definition that has some.

    Args:
        defined: what there is in rvss-backup.conf.
        config: what smb.conf says.
        found: all backups.
    """
    rules: dict[str, Policy | None] = {}
    for each in defined.good:
        if each.retention is None:
            continue
        rules[group_of(each.name)] = _with_protection(each.retention, each.shares, config)
        own = (backup for backup in found if backup.run and backup.run.name == each.name)
        for share in {share for backup in own for share in backup.shares}:
            group = _of_share(each.name, share)
            rules[group] = _with_protection(each.retention, (share,), config)
    return rules


def unruled(found: Iterable[Backup], defined: Definitions) -> Iterator[str]:
    """Yield a sentence on each definition of whose backups nothing goes."""
    if defined.refused:
        yield f"nothing of managed backups is pruned: {defined.refused}"
        return
    known = {each.name for each in defined.good}
    for name in sorted({each.run.name for each in found if each.run} - known):
        why = "; ".join(defined.wrong.get(name, (f"it is not in {defined.file} any more",)))
        yield f"nothing of the backup {name} is pruned: {why}"


def _has_group(defined: Definitions, name: str) -> bool:
    """Return whether the backups of a definition are a group of their own."""
    return not any(each.name == name and each.retention is None for each in defined.good)


def _with_protection(policy: Policy, shares: Iterable[str], config: Config) -> Policy | None:
    """Return rules with what protects the backups of the shares; None if that is not certain."""
    for name in shares:
        share = config.share(name)
        if share is None or share.obstacle:
            return None
        of = share.retention
        spans = [span for span in (policy.minimum, of.minimum) if span]
        policy = replace(
            policy,
            minimum=max(spans, key=lambda span: span.length, default=None),
            requires=tuple(dict.fromkeys((*policy.requires, *of.requires))),
        )
    return policy
