"""Base shares: what something that is exposed has from the share that it is a backup of.

Place: below `exposing`. Contract: nobody can connect whom the base share does not let, at any time:
where that cannot be seen to, there is no share. Nothing is changed here.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial

from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Exposed, Kept, Mark, ShadowCopy, Share, Writers
from samba_rvss.mounts import image_of, way
from samba_rvss.providers.patience import COMMON
from samba_rvss.samba import accounts, clones
from samba_rvss.samba.conf import Config
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.registry import Amendment
from samba_rvss.samba.values import directory


def shared_directory(config: Config) -> str:
    """Return the directory that the shares of what is exposed lead to, and no others."""
    return f"{config.run_directory}/shared"


def name_of(copy: ShadowCopy, share: Share, *, writable: bool) -> str:
    """Return what the share of a backup is called: vms-20261231-230059, by its second in UTC.

    Args:
        copy: which part of it.
        share: its base share; if that is hidden, so is this one.
        writable: whether it is a branch's.
    """
    stem = share.name.removesuffix("$")
    name = f"{stem}-{copy.created:%Y%m%d-%H%M%S}{'-rw' if writable else ''}"
    return name if stem == share.name else f"{name}$"


def obstacle(config: Config, mark: Mark) -> str:
    """Return why an image cannot be a share with its base share's security; empty if it can."""
    share = config.share(mark.share)
    if share is None:
        return f"[{mark.share}] is no share of ours any more, and nothing says who may connect"
    if directory(mark.share_path) != share.path:
        return f"[{mark.share}] leads to {share.path} now, and no longer to {mark.share_path}"
    if share.obstacle:
        return f"[{mark.share}]: {share.obstacle}"
    if mark.branch is not None and share.writers not in (Writers.ANYBODY, Writers.LISTED):
        return f"[{mark.share}] is 'read only' and has no 'write list': nobody could write"
    wish = mark.exposed
    if wish is not None and wish.account:
        if share.guest_only:
            return f"whoever connects to [{share.name}] is a guest, and no account"
        users = share.valid_users
        if users and accounts.has(users, wish.account, wish.uid) is False:
            return f"{wish.account} is none of those who may connect to [{share.name}]"
    return ""


def base_of(instance: Instance, mark: Mark, wish: Exposed) -> Share:
    """Return the base share of an image that is to be exposed.

    Raises:
        RvssError: REFUSED if it cannot be, or not for that account.
    """
    config = instance.config
    share, reason = config.share(mark.share), obstacle(config, _with(mark, wish))
    if share is None or reason:
        raise RvssError(Problem.REFUSED, f"{mark.id} cannot be exposed: {reason}")
    users = share.valid_users
    if wish.account and users and not accounts.has(users, wish.account, wish.uid):
        raise RvssError(
            Problem.REFUSED,
            f"[{share.name}] lets those of 'valid users' connect, and that {wish.account} is one"
            " of them cannot be told",
            "add the account there",
        )
    return share


def clone_of(config: Config, mark: Mark, base: Share, path: str) -> clones.Clone:
    """Return what the share of an image is to be.

    Args:
        config: the instance's.
        mark: the image's, which says that it is exposed.
        base: its base share.
        path: where it is mounted.
    """
    wish, writable = exposed_by(mark), mark.branch is not None
    of = mark.branch.of if mark.branch else mark.id
    return clones.Clone(
        name=wish.share,
        path=path,
        comment=f"{'Writable copy of backup' if writable else 'Backup'} {of} of {base.name}",
        uid=wish.uid if wish.account else -1,
        amendment=Amendment(
            closed=not writable,
            modules=config.modules(base.name),
            writers=base.writers,
            write_list=base.write_list,
            base=base.name,
            named=base.named,
        ),
    )


def outdated(
    instance: Instance, marks: Iterable[Mark], shares: Mapping[str, str]
) -> frozenset[str]:
    """Return the ids of the images whose shares have not the security of their base shares.

    Args:
        instance: theirs.
        marks: those of the images that are exposed.
        shares: the shares that there are, with their paths.

    Raises:
        RvssError: SAMBA if that cannot be told.
    """
    config = instance.config
    paths = {image_of(path): path for path in shares.values()}
    images: dict[str, str] = {}
    wanted: list[clones.Clone] = []
    strayed = set[str]()
    for mark in marks:
        base, path = config.share(mark.share), paths.get(mark.id)
        if mark.exposed is not None and base is not None and path is not None:
            images[mark.exposed.share] = mark.id
            wanted.append(clone_of(config, mark, base, path))
            with suppress(RvssError):  # `unfit` says why
                if path != _path(instance, mark, base):
                    strayed.add(mark.id)
    if not wanted:
        return frozenset()
    with closing(SambaProcess()) as fresh:
        names = fresh.call(
            clones.outdated, config.file, config.samba_state_directory, tuple(wanted)
        )
    return frozenset({*strayed, *(images[name] for name in names)})


def path_of(instance: Instance, mark: Mark, base: Share) -> str:
    """Return where an image that is exposed is to be mounted, behind the gates of its base share.

    Raises:
        RvssError: BAD_PATH or NOT_SUPPORTED.
    """
    return instance.mounts.shared_path(base.name, mark.id, way.to(base.path))


def _path(instance: Instance, mark: Mark, base: Share) -> str:
    """Return the same; BUSY if the way to the base share does not answer in time."""
    return COMMON.look(base.path, partial(path_of, instance, mark, base))


def unfit(instance: Instance, mark: Mark) -> str:
    """Return why an image that is exposed cannot be any more; empty if it can, or perhaps can."""
    reason, share = obstacle(instance.config, mark), instance.config.share(mark.share)
    if reason or share is None:
        return reason
    try:
        _path(instance, mark, share)
    except RvssError as exc:
        return "" if exc.problem is Problem.BUSY else exc.message
    return ""


def described(exposed: Exposed) -> str:
    """Return in words what a share is, and for whom, until when."""
    words = f"[{exposed.share}]"
    if exposed.account:
        words += f" for {exposed.account}"
    if exposed.until:
        words += f" until {exposed.until.isoformat()}"
    return words


def _with(mark: Mark, exposed: Exposed) -> Mark:
    if mark.branch is not None:
        return replace(mark, branch=replace(mark.branch, exposed=exposed))
    return replace(mark, kept=replace(mark.kept or Kept(), exposed=exposed))


def exposed_by(mark: Mark) -> Exposed:
    """Return that an image is a share, as its mark says.

    Raises:
        RvssError: STATE if it does not.
    """
    exposed = mark.exposed
    if exposed is None:
        raise RvssError(Problem.STATE, f"{mark.id} is not exposed by its mark")
    return exposed
