"""What is wrong with an instance, as news for who is to be notified: what `status` says.

Place: the daemon calls `now_wrong` in a process of its own, which a disk that stands still cannot
hold up for ever. Nothing is changed.
"""

from samba_rvss.cli.look import Look
from samba_rvss.cli.standing import roomless, stale
from samba_rvss.cli.status import judge
from samba_rvss.daemon.news import STALE, WRONG, News, of_copy
from samba_rvss.errors import RvssError
from samba_rvss.kernel.priority import give_way
from samba_rvss.samba import conf


def now_wrong(configfile: str) -> tuple[tuple[News, ...], bool]:
    """Return what is wrong, and whether all of it could be seen (`samba_rvss.daemon.news.Judge`).

    Args:
        configfile: smb.conf, or an empty string for Samba's own.
    """
    give_way()
    try:
        look, standing, *_ = judge(conf.load(configfile))
    except RvssError as exc:
        return (News(event=WRONG, reason=exc.line()),), False
    shares = {line: share for share, line in stale(look).items()}
    told = frozenset(roomless(look))  # of each as it happened
    wrong = (line for line in standing.wrong if line not in told)
    return tuple(_news(look, line, shares.get(line, "")) for line in wrong), True


def _news(look: Look, line: str, share: str) -> News:
    """Return a sentence of `status` as news, with the ids of what it names."""
    event = STALE if share else WRONG
    for copy in (*look.seen.copies, *look.seen.backups):
        if copy.id in line:
            return of_copy(event, line, copy)
    for ours in look.config.shares:
        if ours.name == share or (not share and f"[{ours.name}]" in line):
            return News(event=event, reason=line, share=ours.name, path=ours.path)
    sets = look.seen.samba.sets if look.seen.samba else ()
    set_id = next((known.id for known in sets if known.id in line), "")
    return News(event=event, reason=line, set_id=set_id)
