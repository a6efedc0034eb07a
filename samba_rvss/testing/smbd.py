"""A private Samba: a real smbd with directories and a loopback address of its own.

Place: a rig for tests and for the demonstration; it stands on `run` and on the configuration of
`example`. Contract: `start` returns when smbd serves; leaving the context ends smbd and every
process that came from it, and removes the directory. It touches neither the machine's own Samba
nor its users.

smbd runs below a `supervisor`: samba-dcerpcd makes itself a daemon (source3/rpc_server/rpc_host.c,
main), and so would not be our descendant.
"""

import errno
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.processes import descendants
from samba_rvss.run import environment, run, tool
from samba_rvss.testing.example import GLOBAL_EXAMPLE, share_section
from samba_rvss.testing.supervisor import supervised
from samba_rvss.testing.undoing import Undoing

WORKGROUP = "RVSSTEST"
_SECONDS = 120.0  # an emulated machine may need as long
_DIRECTORIES = {
    "lock directory": "lock",
    "state directory": "state",
    "cache directory": "cache",
    "private dir": "private",
    "pid directory": "pid",
    "ncalrpc dir": "ncalrpc",
    "winbindd socket directory": "winbindd",
}


def free_address(port: int = 445) -> str:
    """Return a loopback address on which nothing listens.

    Raises:
        RvssError: BUSY if something listens on every address.
    """
    for _ in range(100):
        address = f"127.77.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                continue
            return address
    raise RvssError(
        Problem.BUSY,
        f"port {port} is taken on every loopback address",
        'give the Samba that runs on this machine "bind interfaces only = yes"',
    )


def _lines(options: Mapping[str, str]) -> str:
    return "".join(f"    {name} = {text}\n" for name, text in options.items())


def script_share(
    name: str, path: str | Path, script: str | Path, *, options: Mapping[str, str] | None = None
) -> str:
    """Return the section of a share with vfs_shell_snap and somebody's script."""
    return share_section(name, str(path), str(script)) + _lines(options or {})


def plain_share(name: str, path: str | Path, *, options: Mapping[str, str] | None = None) -> str:
    """Return the section of a writable share without samba-rvss."""
    return f"[{name}]\n" + _lines({"path": str(path), "read only": "no", **(options or {})})


def btrfs_share(name: str, path: str | Path, *, options: Mapping[str, str] | None = None) -> str:
    """Return the section of a share with Samba's own vfs_btrfs, allowed to make snapshots."""
    stock = {"vfs objects": "btrfs", "btrfs:manipulate snapshots": "yes"}
    return plain_share(name, path, options={**stock, **(options or {})})


def _program(pid: int) -> str:
    """Return the name of a process's program; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except (FileNotFoundError, ProcessLookupError):
        return ""


class PrivateSmbd(Undoing):
    """A context manager: a Samba with a directory, an address and users of its own.

    Args:
        parent: where to make its directory. Every user must be able to walk there, as
            ExposeShadowCopySet opens smb.conf as the client's user; and its name must be short,
            as it holds Unix sockets.
        options: more options of [global]; they stand last and so win over the example.
        interfaces: more addresses to listen on, as "address/prefix length". When Samba starts, an
            interface must have each of them, with this prefix length.
        log_level: smbd's and its helpers'.

    Attributes:
        directory: everything of this Samba is in it; mode 0755.
        configuration: its smb.conf, mode 0644.
        address: where it listens, port 445.
        netbios_name: its name, which is that of the domain of its own users.
    """

    netbios_name = "RVSSRIG"

    def __init__(
        self,
        *,
        parent: Path = Path("/tmp"),
        options: Mapping[str, str] | None = None,
        interfaces: Sequence[str] = (),
        log_level: int = 1,
    ) -> None:
        super().__init__()
        self._parent = parent
        self._options = dict(options or {})
        self._interfaces = tuple(interfaces)
        self._log_level = log_level
        self._shares: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = parent
        self.address = ""

    def _set_up(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"rvss-{os.getpid()}-", dir=self._parent))
        self._undo.callback(shutil.rmtree, self.directory)
        self.directory.chmod(0o755)
        for name in (*_DIRECTORIES.values(), "log"):
            (self.directory / name).mkdir(mode=0o755)
        (self.directory / "private").chmod(0o700)
        self.address = self._choose_address()
        self.write_configuration()
        self._undo.callback(self.stop)

    def _choose_address(self) -> str:
        return free_address()

    @property
    def configuration(self) -> Path:
        """Its smb.conf."""
        return self.directory / "smb.conf"

    @property
    def lock_directory(self) -> Path:
        """Where srv_fss.tdb is."""
        return self.directory / "lock"

    @property
    def state_directory(self) -> Path:
        """Where share_info.tdb is."""
        return self.directory / "state"

    @property
    def private_directory(self) -> Path:
        """Where its passwords are."""
        return self.directory / "private"

    @property
    def pid(self) -> int:
        """Of our own child, from which all of this Samba comes; 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether smbd lives."""
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        """Return the smb.conf: our directories, the README's [global], the shares."""
        # "include = registry" opens the registry where it stands (source3/param/loadparm.c,
        # process_registry_globals), so the directories have to come first.
        always = {
            "disable netbios": "yes",
            "multicast dns register": "no",
            "disable spoolss": "yes",
            "load printers": "no",
            "printing": "bsd",
            "printcap name": os.devnull,
            "usershare max shares": "0",
            "max log size": "0",
            "log level": str(self._log_level),
        }
        lines = _lines({**self._own_options(), **always})
        head = "[global]\n" + lines + GLOBAL_EXAMPLE + _lines(self._options)
        return "\n".join((head, *self._shares.values()))

    def _own_options(self) -> dict[str, str]:
        """Return the options of [global] that make it a Samba of its own."""
        return {
            **{option: str(self.directory / name) for option, name in _DIRECTORIES.items()},
            "server role": "standalone server",
            "security": "user",
            "workgroup": WORKGROUP,
            "netbios name": self.netbios_name,
            # With /32, smbd finds no interface and does not start.
            "interfaces": " ".join((f"{self.address}/8", *self._interfaces)),
            "bind interfaces only": "yes",
            "smb ports": "445",
        }

    def write_configuration(self) -> None:
        """Replace smb.conf in one step, without telling a running smbd."""
        new = self.configuration.with_name("smb.conf.new")
        new.write_text(self.text(), "utf-8", "surrogateescape")
        new.chmod(0o644)
        new.replace(self.configuration)

    def set_options(self, options: Mapping[str, str]) -> None:
        """Add or change options of [global]; tell a running smbd."""
        self._options.update(options)
        self._changed()

    def set_share(self, name: str, section: str) -> None:
        """Add or replace a share by its whole section; tell a running smbd.

        A living rpcd_fsrvp does not learn of a new share: see `end_workers`.
        """
        self._shares[name] = section
        self._changed()

    def drop_share(self, name: str) -> None:
        """Take a share out of smb.conf; tell a running smbd."""
        del self._shares[name]
        self._changed()

    def _changed(self) -> None:
        self.write_configuration()
        if self.running:
            self.reload()

    def start(self) -> None:
        """Start smbd, and return when it answers SMB.

        Raises:
            RvssError: SAMBA, with the end of its log, if it did not in time.
        """
        if self.running:
            raise RvssError(Problem.USAGE, f"the smbd at {self.address} already runs")
        log = self.directory / "log"
        argv = [
            tool("smbd"),
            "--foreground",
            "--no-process-group",
            f"--configfile={self.configuration}",
            # Handed on to samba-dcerpcd and its workers (source3/rpc_client/local_np.c,
            # start_rpc_host_send; rpc_host.c, rpc_host_exec_worker); "log file" is not.
            f"--log-basename={log}",
        ]
        with (log / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command(argv),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment(),
                cwd=self.directory,
                start_new_session=True,
            )
        with ExitStack() as guard:
            guard.callback(self.stop)
            self._wait_until_it_serves()
            guard.pop_all()

    def _command(self, argv: list[str]) -> list[str]:
        """Return what runs smbd, and ends all that came from it when its standard input closes."""
        return supervised(argv)

    def _wait_until_it_serves(self) -> None:
        # Imported here, so that everything else works without python-samba.
        from samba_rvss.testing.smbclient import probe

        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                probe(self.address)
            except RvssError as exc:
                if not self.running or time.monotonic() > deadline:
                    raise RvssError(
                        Problem.SAMBA, f"smbd at {self.address} does not serve: {self._said()}"
                    ) from exc
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End smbd and all that came from it; nothing to do if it does not run.

        Raises:
            RvssError: SAMBA if smbd had ended by itself, or if something could not be ended.
        """
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            status = process.wait(_SECONDS)
        except subprocess.TimeoutExpired as exc:
            process.kill()
            process.wait()
            raise RvssError(
                Problem.SAMBA, f"the smbd at {self.address} could not be ended in {_SECONDS:g} s"
            ) from exc
        if status:
            what = "had ended by itself" if status == 1 else f"was ended with status {status}"
            raise RvssError(Problem.SAMBA, f"the smbd at {self.address} {what}: {self._said()}")

    def _said(self) -> str:
        """Return the end of what smbd logged, without headers and without a panic's stack."""
        text = (self.log("output") + self.log("smbd")).partition("=====")[0]
        lines = [line for line in text.splitlines() if not line.startswith("[")]
        return " ".join(" ".join(lines).split())[-500:]

    def reload(self) -> None:
        """Make smbd read smb.conf again, and return when it has.

        It handles messages in order, so the answer to a ping says that the reload is over.
        """
        self.smbcontrol("smbd", "reload-config")
        self.smbcontrol("smbd", "ping")

    def processes(self) -> list[int]:
        """Return the pids of smbd and of all that came from it."""
        return [] if self._process is None else descendants(self._process.pid)

    def worker_pids(self) -> list[int]:
        """Return the pids of the rpcd_fsrvp that live."""
        return [pid for pid in self.processes() if _program(pid) == "rpcd_fsrvp"]

    def end_workers(self) -> None:
        """End the rpcd_fsrvp that live, so that the next client gets one with a fresh view.

        samba-dcerpcd ends with its last worker, and cuts off who has come to it meanwhile: it is
        waited for.

        Raises:
            RvssError: BUSY if they did not end.
        """
        for pid in self.worker_pids():
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _SECONDS
        while left := [*self.worker_pids(), *self._ending_hosts()]:
            if time.monotonic() > deadline:
                raise RvssError(Problem.BUSY, f"rpcd_fsrvp or its host does not end: {left}")
            time.sleep(0.005)

    def _ending_hosts(self) -> list[int]:
        """Return the pids of the samba-dcerpcd that have no worker of any kind left."""
        hosts = [pid for pid in self.processes() if _program(pid) == "samba-dcerpcd"]
        return [pid for pid in hosts if not any(map(_program, descendants(pid)))]

    def log(self, name: str = "rpcd_fsrvp") -> str:
        """Return the log of one of Samba's programs; empty if it has not written any."""
        for path in (self.directory / "log" / f"log.{name}", self.directory / "log" / name):
            if path.is_file():
                return path.read_text("utf-8", "replace")
        return ""

    def net(self, *words: str) -> str:
        """Run ``net`` on this Samba's configuration; return its output."""
        return self._tool("net", words)

    def smbcontrol(self, *words: str) -> str:
        """Run ``smbcontrol`` on this Samba; return its output."""
        return self._tool("smbcontrol", words)

    def sharesec(self, *words: str) -> str:
        """Run ``sharesec`` on this Samba; return its output."""
        return self._tool("sharesec", words)

    def pdbedit(self, *words: str) -> str:
        """Run ``pdbedit`` on this Samba's users; return its output."""
        return self._tool("pdbedit", words)

    def _tool(self, name: str, words: tuple[str, ...]) -> str:
        return run([name, f"--configfile={self.configuration}", *words], timeout=_SECONDS)
