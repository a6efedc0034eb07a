"""An instance's files, real ones, on which nothing runs: for tests of reconciling."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from samba_rvss.clock import now
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import RvssError
from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.ledger import Ledger
from samba_rvss.model import (
    Image,
    Inventory,
    Mark,
    Nested,
    Phase,
    Sealed,
    SetState,
    Taken,
    Volume,
)
from samba_rvss.mounts import Mounts
from samba_rvss.reconcile.observation import Observation, Sources, observe
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess
from samba_rvss.testing import fss_records
from tests.unit.values import COPY_ID, SET, SHARE_PATH, copy_of, image_of, share_of

SHARE = share_of(COPY_ID)


class Shelf:
    """A file system that holds the images that a test says, and does nothing.

    Args:
        inventory: what is on it.
    """

    name = "btrfs"

    def __init__(self, inventory: Callable[[], Inventory]) -> None:
        self._inventory = inventory

    def file_systems(self, mounts: Iterable[MountInfo]) -> frozenset[str]:
        """See `samba_rvss.providers.Provider`."""
        return frozenset()

    def remembered(self) -> frozenset[str]:
        """See `samba_rvss.providers.Provider`."""
        return frozenset({"remembered"})

    def inventory(self, only: Container[str] | None = None) -> Inventory:
        """See `samba_rvss.providers.Provider`."""
        assert only is not None
        assert "remembered" in only
        return self._inventory()

    def find(self, fd: int, path: str) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(path)

    def around(self, fd: int, volume: Volume) -> list[Volume]:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(fd, volume)

    def probe(self, fd: int, path: str, nested: Nested, *, thorough: bool) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(path)

    def includes(self, mount: MountInfo) -> bool:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(mount)

    def shows(self, mount: MountInfo, volume: Volume, image: str) -> bool:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(mount)

    def ready(self, volume: Volume) -> None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(volume)

    def create(self, marks: Sequence[Mark], deadline: float) -> Mapping[str, Taken | RvssError]:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(marks)

    def branch(self, volume: Volume, image: str, mark: Mark) -> Volume:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(mark)

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(image)

    def seal(self, volume: Volume, image: str, sealed: Sealed, *, opened: bool) -> bool:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(image)

    def mark(self, volume: Volume, image: str) -> Mark | None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(image)

    def keep(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(image)

    def hold(self, volume: Volume, image: str, tags: Sequence[str]) -> None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(image)

    def require_free(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""

    def sizes(self, images: Sequence[Image]) -> Mapping[str, int]:
        """See `samba_rvss.providers.Provider`."""
        return {}

    def claim(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(mark)

    def clear(self, volume: Volume, image: str, *, link: bool = False) -> None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(image)

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        raise AssertionError(image)


class Site:
    """One instance's files; nothing runs.

    Args:
        directory: an empty one.
        samba: where python-samba runs.
        images: what is on its file systems.
    """

    def __init__(self, directory: Path, samba: SambaProcess, *images: Image) -> None:
        self.samba = samba
        self.directory = directory
        for name in ("lock", "state", "cache", "private", "run", "rvss"):
            (directory / name).mkdir()
        file = directory / "smb.conf"
        file.write_text(
            "[global]\n"
            f"    lock directory = {directory}/lock\n"
            f"    state directory = {directory}/state\n"
            f"    cache directory = {directory}/cache\n"
            f"    private dir = {directory}/private\n"
            f"    rvss:run directory = {directory}/run\n"
            f"    rvss:state directory = {directory}/rvss\n"
            "    registry shares = yes\n"
            "    include = registry\n"
        )
        self.config = samba.call(conf.load, str(file))
        self.ledger = Ledger(self.config.ledger)
        self.images = images
        self.failure: Exception | None = None
        self.path = f"{directory}/run/exposed/vms/a"
        self.copy = replace(
            copy_of("a", Phase.SEALED, created=now() - timedelta(days=30)),
            path=self.path,
            set_id=SET,
            copy_id=COPY_ID,
            exposed_share=SHARE,
            state=SetState.RECOVERED,
        )

    def seal_copy(self) -> None:
        """Put one sealed copy there, that a recovered set has."""
        self.ledger.add(self.copy, "create")
        self.images = (image_of("a", self.copy.created),)
        self.store()

    def records(
        self, state: SetState = SetState.RECOVERED, context: int = 0
    ) -> fss_records.Records:
        """Return srv_fss.tdb as Samba writes it, with the copy in a set of its own."""
        return {
            **fss_records.of_file(1),
            **fss_records.of_set(SET, state, context, 1),
            **fss_records.of_copy(SET, COPY_ID, SHARE_PATH, self.path, 1709251199, 1),
            **fss_records.of_map(SET, COPY_ID, "VMs", SHARE, 1, comment=""),
        }

    def store(self, records: fss_records.Records | None = None) -> None:
        """Write srv_fss.tdb as Samba does."""
        fss_records.store(self.config.fss_state, self.records() if records is None else records)

    def inventory(self) -> Inventory:
        """Return what is on the file systems; fail if they are said to."""
        if self.failure is not None:
            raise self.failure
        return Inventory(file_systems=frozenset({"fs"}), images=self.images)

    def instance(self, inventory: Callable[[], Inventory] | None = None) -> Instance:
        """Return the instance, on a file system that holds what this says instead, if anything."""
        return Instance(
            config=self.config,
            ledger=self.ledger,
            mounts=Mounts(self.config.run_directory),
            providers=(Shelf(inventory or self.inventory),),
            samba=self.samba,
        )

    def observe(self, *, starting: bool = False) -> Observation:
        """Look at everything."""
        return observe(Sources(instance=self.instance(), starting=starting))


@contextmanager
def with_samba(directory: Path) -> Iterator[Site]:
    """Give a site with python-samba in a process of its own."""
    with closing(SambaProcess()) as samba:
        made = Site(directory, samba)
        with closing(made.ledger):
            yield made
