"""Messages to running smbds, by smbcontrol(1)."""

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import run

SECONDS = 10.0
"""Time limit of one smbcontrol, in seconds."""


def reload_config(configfile: str) -> bool:
    """Tell every smbd to read its configuration again.

    Returns:
        False if no smbd runs, so that there is nobody to tell.

    Raises:
        RvssError: SAMBA if the message cannot be sent.
    """
    return _smbcontrol(configfile, "reload-config")


def close_share(configfile: str, share: str) -> bool:
    """Tell every smbd to drop its connections to a share, with all files open through them.

    Returns:
        False if no smbd runs.

    Raises:
        RvssError: SAMBA if the message cannot be sent.
    """
    return _smbcontrol(configfile, "close-share", share)


def _smbcontrol(configfile: str, *message: str) -> bool:
    try:
        run(["smbcontrol", f"--configfile={configfile}", "smbd", *message], timeout=SECONDS)
    except RvssError as exc:
        # source3/utils/smbcontrol.c, parse_dest()
        if "Can't find pid" in exc.message:
            return False
        raise RvssError(
            Problem.SAMBA, f"smbd does not take '{' '.join(message)}'", str(exc)
        ) from exc
    return True
