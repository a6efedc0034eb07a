"""What an administrator will want to change in smb.conf: sentences for `shares` and the journal.

Place: on smb.conf and on the directories of `mounts`, which Previous Versions are looked for in.
Contract: it looks, and changes nothing.
"""

import os
from collections.abc import Iterator

from samba_rvss.model import Advice, Share
from samba_rvss.mounts import previous_directory
from samba_rvss.samba import modules, twins
from samba_rvss.samba.conf import Config

# Options that make Samba look for other names than ours (source3/modules/vfs_shadow_copy2.c,
# shadow_copy2_connect()), and the values that do not.
_IN_THE_WAY = {
    "format": ("@GMT-%Y.%m.%d-%H.%M.%S",),
    "sscanf": ("no", "false", "off", "0"),
    "localtime": ("no", "false", "off", "0"),
    "snapprefix": (),
    "snapsharepath": (),
    "basedir": (),
}


def of(config: Config) -> tuple[str, ...]:
    """Return a sentence on whatever breaks or limits shadow copies."""
    differences = twins.notes(config.shares)
    return (*config.warnings, *config.notes, *differences, *on_previous_versions(config))


def on_previous_versions(config: Config) -> Iterator[str]:
    """Yield a sentence on whatever keeps Samba from showing copies as Previous Versions."""
    return (advice.line() for advice in of_previous_versions(config))


def of_previous_versions(config: Config) -> Iterator[Advice]:
    """Yield whatever keeps Samba from showing copies as Previous Versions."""
    for alike in twins.grouped(config.shares).values():
        directory = previous_directory(config.run_directory, twins.shown_by(alike))
        for share in alike:
            given = dict(share.shadow).get("snapdir", "")
            if share.previous_versions:
                yield from _lacks(share, directory)
            elif given.startswith(f"{config.run_directory}/previous/") and given != directory:
                yield _advice(
                    share,
                    f"has 'shadow:snapdir = {given}', and nothing is there without"
                    " 'rvss:previous versions = yes'",
                )


def _advice(share: Share, what: str, why: str = "", write: str = "") -> Advice:
    return Advice(check="previous-versions", share=share.name, what=what, why=why, write=write)


def _lacks(share: Share, directory: str) -> Iterator[Advice]:
    """Yield what a share lacks whose Previous Versions are in a directory."""
    if "shadow_copy2" not in map(modules.name, share.vfs_objects):
        yield _advice(
            share,
            "has 'rvss:previous versions = yes', and 'vfs objects' has no shadow_copy2",
            "nobody sees its Previous Versions",
            f"write 'vfs objects = shadow_copy2 {' '.join(share.vfs_objects)}'",
        )
        return
    options = dict(share.shadow)
    given = options.get("snapdir", "")
    if not _leads_to(given, directory):
        found = f"'shadow:snapdir = {given}'" if given else "no 'shadow:snapdir'"
        what = f"has {found}, and its Previous Versions are elsewhere"
        yield _advice(share, what, write=f"write 'shadow:snapdir = {directory}'")
    given = options.get("mountpoint", "")
    if given.rstrip("/") != share.path.rstrip("/"):
        found = f"'shadow:mountpoint = {given}'" if given else "no 'shadow:mountpoint'"
        what = f"has {found}, and its Previous Versions begin at its own directory"
        yield _advice(share, what, write=f"write 'shadow:mountpoint = {share.path}'")
    for option, harmless in _IN_THE_WAY.items():
        text = options.get(option)
        if text is not None and not {text, text.lower()} & {*harmless}:
            what = f"has 'shadow:{option} = {text}', with which its Previous Versions are not found"
            yield _advice(share, what, write="take it out")


def _leads_to(given: str, directory: str) -> bool:
    """Return whether a path is that of one of our directories; links above it are followed."""
    given = given.rstrip("/")
    if given == directory:
        return True
    run, name = os.path.split(os.path.dirname(given)), os.path.basename(given)
    ours, own = os.path.split(os.path.dirname(directory)), os.path.basename(directory)
    return (run[1], name) == (ours[1], own) and os.path.realpath(run[0]) == ours[0]
