"""smb.conf as it is now: a change that comes while it is being read is not missed."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from samba_rvss.daemon.present import Present
from samba_rvss.samba.process import SambaProcess
from samba_rvss.testing.example import share_section
from tests.unit.site import Site, with_samba

P = ParamSpec("P")
R = TypeVar("R")

HOOK = "/usr/libexec/samba-rvss/hook"


class Overtaken(SambaProcess):
    """python-samba, and somebody who changes smb.conf when it has just been read for the n-th time.

    Args:
        change: what he does.
        when: n.
    """

    def __init__(self, change: Callable[[], object], when: int) -> None:
        super().__init__()
        self._change = change
        self._left = when

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See `SambaProcess`."""
        result = super().call(function, *args, **kwargs)
        self._left -= 1
        if not self._left:
            self._change()
        return result


class Broken(SambaProcess):
    """python-samba, in which something is wrong that nobody has thought of."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See `SambaProcess`."""
        raise ZeroDivisionError(function)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with with_samba(tmp_path) as made:
        yield made


def test_a_share_that_is_added_while_the_file_is_read(site: Site) -> None:
    file = Path(site.config.file)

    def add(name: str) -> None:
        hook = f"{HOOK} -S {site.config.run_directory}/hook.sock"
        with file.open("a") as text:
            text.write(share_section(name, f"/srv/{name}", hook))

    async def story() -> list[str]:
        with closing(Overtaken(lambda: add("second"), 1)) as samba:
            instance = replace(site.instance(), samba=samba)
            present = Present(instance, str(file), samba, ())
            add("first")
            await present.refresh()  # it reads what has the first, and then the second is there
            await present.refresh()
            return [share.name for share in present().config.shares]

    assert asyncio.run(story()) == ["first", "second"]


def test_whatever_is_wrong_the_configuration_before_stays(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Broken()) as samba:
        instance = replace(site.instance(), samba=samba)
        present = Present(instance, site.config.file, samba, ())
        asyncio.run(present.refresh())
    assert present() is instance
    assert "ZeroDivisionError" in caplog.text
