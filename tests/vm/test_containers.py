"""packaging/container: its images, built on the test machine's Debian, in the manual's layouts.

What is documented is what runs: compose.yml and pod.yml are read here, and podman is told what they
say.
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from samba_rvss.kernel import mounting
from samba_rvss.model import Context
from samba_rvss.run import run
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.logon import Logon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.podman import Podman
from samba_rvss.testing.smbd import free_address
from samba_rvss.testing.waiting import wait_until
from tests.vm import image

if TYPE_CHECKING:
    from samba_rvss.samba.fsrvp.client import Client

pytestmark = pytest.mark.require("root", "btrfs", "loop", "smbd", "podman", "vm")

_ROOT = Path(__file__).resolve().parents[2]
_CONTAINER = _ROOT / "packaging" / "container"
_MANUAL = _ROOT / "packaging" / "man" / "samba-rvss-containers.7"
_SECONDS = 120.0
_LOGON = Logon(user="vssbackup", password="rvss-1")
_REFUSED = "NT_STATUS_(MEDIA_WRITE_PROTECTED|ACCESS_DENIED)"


@contextmanager
def _debian(podman: Podman, tag: str) -> Iterator[None]:
    """Give podman an image of what the test machine has, which is all that ours need of Debian.

    It is of one layer, in whose place is the machine's disk: to copy all that would take longer
    than the tests.
    """
    disk, archive = podman.home / "debian", podman.home / "empty.tar"
    disk.mkdir()
    run(["tar", "-C", str(disk), "-cf", str(archive), "."], timeout=_SECONDS)
    podman("import", "--quiet", str(archive), tag)
    (layer,) = (podman.home / "storage" / "overlay").glob("*/diff")
    layer.rmdir()
    layer.symlink_to(disk)
    run(["mount", "-o", "loop,ro", str(image.image().root), str(disk)], timeout=_SECONDS)
    try:
        yield
    finally:
        mounting.umount(str(disk))


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """A podman that has the images samba-rvss and samba-rvss-smbd."""
    with Podman() as podman, _debian(podman, "debian"):
        for tag, name in (
            ("samba-rvss", "Containerfile"),
            ("samba-rvss-smbd", "Containerfile.smbd"),
        ):
            podman.build(_CONTAINER / name, _ROOT, tag, "localhost/debian")
        yield podman


class Site:
    """A share on a btrfs, and the containers that serve it.

    Attributes:
        address: where smbd listens, on the host's network.
        undo: ends what was begun.
        sources: what stands in the place of what the examples name on the host.
    """

    def __init__(self, podman: Podman, disk: LoopBtrfs, directory: Path, undo: ExitStack) -> None:
        self._podman = podman
        self.undo = undo
        self._tag = secrets.token_hex(4)
        self.disk = disk
        self.directory = directory
        self.address = free_address()
        share = disk.subvolume("vms")
        (share / "data").write_bytes(b"from the source")
        (share / "data").chmod(0o666)
        here = {"interfaces": f"{self.address}/8", "bind interfaces only": "yes", "smb ports": 445}
        lines = "".join(f"    {name} = {text}\n" for name, text in here.items())
        example = (_CONTAINER / "smb.conf").read_text()
        (directory / "smb.conf").write_text(example.replace("[global]\n", f"[global]\n{lines}"))
        self.sources = {"/srv/vms": str(share), "./smb.conf": str(directory / "smb.conf")}

    def start(self, name: str, words: Sequence[str]) -> None:
        """Start a container with some options, an image and a command."""
        run(
            self._podman.run_words(
                *("--detach", f"--name={name}", "--log-driver=k8s-file", "--network=host"), *words
            ),
            timeout=_SECONDS,
            env=self._podman.settings,
        )
        self.undo.callback(self.remove, name)

    def wait_until_ended(self, name: str) -> None:
        """Wait until a container's program has ended, and fail unless it succeeded."""
        assert self._podman("wait", name).strip() == "0"

    def remove(self, name: str) -> None:
        """End a container and remove it; nothing to do if it is gone."""
        self._podman("rm", "--force", "--ignore", "--time=20", name)

    def inside(self, name: str, *words: str) -> str:
        """Run a program in a container; return its output."""
        return self._podman("exec", name, *words)

    def wait_for(self, name: str, text: str) -> None:
        """Wait until a container has said something."""
        # podman has both of its streams in one file.
        path = self._podman("inspect", "--format={{.HostConfig.LogConfig.Path}}", name).strip()
        log = Path(path)
        wait_until(lambda: f"{text}: {log.read_text()}", lambda: text in log.read_text(), _SECONDS)

    def volume(self, source: str) -> str:
        """Return what is mounted for a source of an example: a named volume is this site's own."""
        return self.sources.get(source, f"{self._tag}-{source}")

    def service(self) -> list[str]:
        """Return the options, the image and the command of the service in compose.yml."""
        (service,) = yaml.safe_load((_CONTAINER / "compose.yml").read_text())["services"].values()
        known = {"cap_add", "devices", "tmpfs", "volumes", "image"}
        assert service.keys() - {"build", "ports", "restart"} == known
        words = [f"--cap-add={name}" for name in service["cap_add"]]
        words += [f"--device={self.disk.device}"] * len(service["devices"])
        words += [f"--tmpfs={path}" for path in service["tmpfs"]]
        for volume in service["volumes"]:
            source, _, target = volume.partition(":")
            words.append(f"--volume={self.volume(source)}:{target}")
        return [*words, service["image"]]

    def pod(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return the same of each container in pod.yml, by its name: the first ones, the others."""
        spec = yaml.safe_load((_CONTAINER / "pod.yml").read_text())["spec"]
        assert spec["shareProcessNamespace"] is True
        places = {volume["name"]: self._place(volume) for volume in spec["volumes"]}
        before, after = (
            {one["name"]: self._words(one, places) for one in spec[kind]}
            for kind in ("initContainers", "containers")
        )
        return before, after

    def _words(self, container: Mapping[str, Any], places: Mapping[str, Path]) -> list[str]:
        privileged = container.get("securityContext", {}).get("privileged", False)
        return [
            *self._mounts(container, places),
            *["--privileged"] * privileged,
            container["image"],
            *container.get("command", ()),
        ]

    def _place(self, volume: Mapping[str, Any]) -> Path:
        """Return what a volume of a pod is here."""
        if "configMap" in volume:
            return self.directory
        if "hostPath" in volume and volume["hostPath"]["type"] == "Directory":
            return Path(self.sources[volume["hostPath"]["path"]])
        place = self.directory / str(volume["name"])
        place.mkdir()
        return place

    def _mounts(self, container: Mapping[str, Any], places: Mapping[str, Path]) -> Iterator[str]:
        propagation = {None: "", "Bidirectional": ":rshared", "HostToContainer": ":rslave"}
        for mount in container["volumeMounts"]:
            source = places[mount["name"]] / mount.get("subPath", "")
            how = propagation[mount.get("mountPropagation")]
            read_only = ":ro" * mount.get("readOnly", False)
            yield f"--volume={source}:{mount['mountPath']}{how}{read_only}"

    def add_user(self, name: str) -> None:
        """Make a user of Samba who may take shadow copies, in the container of smbd."""
        self.inside(name, "useradd", "-M", "-s", "/usr/sbin/nologin", _LOGON.user)
        script = 'printf "%s\\n%s\\n" "$1" "$1" | smbpasswd -s -a "$0"'
        self.inside(name, "sh", "-c", script, _LOGON.user, _LOGON.password)
        self.inside(name, "net", "sam", "rights", "grant", _LOGON.user, "SeBackupPrivilege")

    def serves(self) -> bool:
        """Return whether smbd answers."""
        from samba_rvss.testing.smbclient import SmbError, probe

        try:
            probe(self.address)
        except SmbError:
            return False
        return True

    def wait(self, daemon: str) -> None:
        """Wait until smbd and the daemon in a container serve."""
        self.wait_for(daemon, "serving 1 shares")
        wait_until("smbd serves", self.serves, _SECONDS)

    def copies(self, name: str) -> list[dict[str, Any]]:
        """Return all shadow copies, as ``samba-rvss list --json`` tells them in a container."""
        said = self.inside(name, "samba-rvss", "list", "--json")
        copies: list[dict[str, Any]] = json.loads(said)["copies"]
        return copies

    def is_sealed(self, name: str) -> bool:
        """Return whether there is one shadow copy, and it is sealed."""
        return [copy["phase"] for copy in self.copies(name)] == ["sealed"]

    def images(self) -> list[str]:
        """Return what is where images are kept."""
        home = self.disk.path / ".samba-rvss"
        return [name for name in os.listdir(home) if name != ".marks"] if home.exists() else []

    def take(self, daemon: str) -> None:
        """Take a shadow copy set from beginning to end.

        Args:
            daemon: the container of samba-rvss.
        """
        from samba_rvss.samba.fsrvp.client import Client
        from samba_rvss.testing.smbclient import Session, SmbError

        with Client(self.address, _LOGON) as client:
            taken = self.expose(client)
            (exposed,) = taken.exposed_shares
            with Session(self.address, exposed, _LOGON) as session:
                file = session.open("data", write=True, truncate=True)
                file.write(b"recovered")
                taken.complete()
                wait_until("it is sealed", lambda: self.is_sealed(daemon), _SECONDS)
                with pytest.raises(SmbError):
                    file.write(b"late")
            with (
                Session(self.address, exposed, _LOGON) as session,
                Session(self.address, "vms", _LOGON) as base,
            ):
                assert session.read("data") == b"recovered"
                for name in ("data", "late"):
                    with pytest.raises(SmbError, match=_REFUSED):
                        session.write(name, b"late")
                assert base.read("data") == b"from the source"
            taken.delete()
        wait_until("it is gone", lambda: not self.copies(daemon) and not self.images(), _SECONDS)
        assert "\nhealthy" in "\n" + self.inside(daemon, "samba-rvss", "status")

    def expose(self, client: "Client") -> CopySet:
        """Take a shadow copy set and expose it; it is to be recovered."""
        taken = CopySet(client, Context.AUTO_RECOVERY)
        taken.check("vms")
        taken.prepare("vms")
        taken.commit()
        taken.expose()
        return taken


@pytest.fixture
def site(podman: Podman, loop_btrfs: LoopBtrfs, rig_directory: Path) -> Iterator[Site]:
    with ExitStack() as undo:
        yield Site(podman, loop_btrfs, rig_directory, undo)


def test_one_container(site: Site) -> None:
    """compose.yml; and what a container leaves is known to the next one."""
    from samba_rvss.samba.fsrvp.client import Client

    site.start("samba", site.service())
    site.wait("samba")
    site.add_user("samba")
    site.take("samba")
    with Client(site.address, _LOGON) as client:
        site.expose(client)
        assert len(site.images()) == 1
        site.remove("samba")
    site.start("samba", site.service())
    site.wait("samba")
    (copy,) = site.copies("samba")
    site.inside("samba", "samba-rvss", "delete", copy["id"])
    assert not site.copies("samba")
    assert site.images() == []
    assert site.inside("samba", "net", "conf", "listshares").split() == []


def test_two_containers(site: Site) -> None:
    """pod.yml: the third container is what holds the namespaces of a pod, and reaps."""
    before, after = site.pod()
    place = str(site.directory / "mounts")
    run(["mount", "--bind", place, place], timeout=_SECONDS)
    site.undo.callback(run, ["umount", "--recursive", place], timeout=_SECONDS)
    run(["mount", "--make-shared", place], timeout=_SECONDS)
    pause = "trap exit TERM; sleep infinity & wait"
    site.start("pause", ["samba-rvss-smbd", "bash", "-c", pause])
    for name, words in before.items():
        site.start(name, ["--pid=container:pause", *words])
        site.wait_until_ended(name)
    for name, words in after.items():
        site.start(name, ["--pid=container:pause", *words])
    site.wait("samba-rvss")
    site.add_user("samba")
    site.take("samba-rvss")


_MISSING = {
    "--cap-add=SYS_ADMIN": (
        "cannot prepare /run/samba-rvss for mounts: Operation not permitted: give samba-rvss the"
        " capability CAP_SYS_ADMIN"
    ),
    "--cap-add=SYS_PTRACE": (
        "every request is refused, because it cannot be seen which process started which: give"
        " samba-rvss the capability CAP_SYS_PTRACE (--cap-add=SYS_PTRACE for a container,"
        " CapabilityBoundingSet= for a service)"
    ),
    "--cap-add=SYS_NICE": (
        "on a machine that has much to do, a copy may be opened too late for what its client writes"
        " first: give samba-rvss the capability CAP_SYS_NICE (--cap-add=SYS_NICE for a container,"
        " CapabilityBoundingSet= for a service)"
    ),
    "--device=DISK": "is in /dev: give the container the disk (--device)",
    "--device=DISK --volume=/dev:/dev": (
        "it can make no image there, and list none: give it the permission for that device:"
        " --device for a container, DeviceAllow= for a service"
    ),
}


@pytest.mark.parametrize("change", _MISSING)
def test_what_is_missing_is_named(change: str, site: Site) -> None:
    """In the words that the manual has."""
    without, *instead = change.replace("DISK", site.disk.device).split()
    *options, tag = site.service()
    options.remove(without)
    verb = "daemon" if "cap-add" in without else "shares"
    site.start("samba", [*options, *instead, tag, "samba-rvss", verb])
    said = _MISSING[change]
    site.wait_for("samba", said)
    assert said in " ".join(_MANUAL.read_text().split())
