"""Commands as at a root shell's prompt, and a transcript of them.

Place: in the machine, below `administrator`.
"""

import os
import subprocess

from samba_rvss.errors import Problem, RvssError
from tests.vm.record import say
from tests.vm.survey import HOST, LOGON


class Transcript:
    """What was typed and what came of it.

    Attributes:
        text: all of it, as on a terminal.
    """

    def __init__(self) -> None:
        self.text = ""

    def type(self, command: str, *, status: int = 0, shown: bool = True) -> str:
        """Run a command and return what it prints; nobody answers it, should it ask.

        Args:
            command: for a shell.
            status: the exit status that it has to have.
            shown: whether its output is worth reading.

        Raises:
            RvssError: TOOL if it has another one.
        """
        done = subprocess.run(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "100"},
            text=True,
            check=False,
        )
        output = done.stdout if shown or done.returncode != status else ""
        ended = f"[exit status {done.returncode}]\n" if done.returncode else ""
        entry = f"# {command}\n{output}{ended}"
        self.text += entry
        say(entry)
        if done.returncode != status:
            raise RvssError(Problem.TOOL, f"{command}: {done.returncode} is not {status}")
        return done.stdout

    def remark(self, sentence: str) -> None:
        """Say in the transcript what comes now."""
        self.text += f"\n## {sentence}\n"

    def rpc(self, command: str) -> str:
        """Give rpcclient a command, as the backup program's user."""
        return self.type(f"rpcclient {HOST} -U '{LOGON.user}%{LOGON.password}' -c '{command}'")

    def smb(self, share: str, command: str, *, status: int = 0) -> str:
        """Give smbclient a command for a share, as that user."""
        user = f"{LOGON.user}%{LOGON.password}"
        return self.type(f"smbclient '//{HOST}/{share}' -U '{user}' -c '{command}'", status=status)
