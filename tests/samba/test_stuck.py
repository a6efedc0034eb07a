"""A server that refuses every new set: stock Samba for ever, ours cured with nobody's help.

Samba lets one set at a time be created, and a set whose client has gone before Expose is in its
way: in srv_fss.tdb once it is committed, else in the memory of rpcd_fsrvp. Samba's own timer would
end it, but the next client's SetContext replaces that timer by one that ends nothing
(source3/rpc_server/fss/srv_fss_agent.c, _fss_SetContext() and fss_seq_tout_handler()).
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import RvssError
from samba_rvss.model import Context, Phase, SetState
from samba_rvss.samba import fss_state
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from samba_rvss.testing.remote import Remote
from samba_rvss.testing.smbd import PrivateSmbd, script_share
from samba_rvss.testing.waiting import wait_until
from tests.samba.fault_cases import SLOW
from tests.samba.lanes import SHARES, Lane, SetDriver, lane

if TYPE_CHECKING:
    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig

SEQUENCE = 6
"""Samba's own timer here, in seconds; it is 180 to 1800 s without the option."""
SLOW_SEQUENCE = 4
RECOVERY, GRACE = 4, 3
WITHIN = 60.0
SAMBAS = 78
"""The same where it is not to be what counts: more than a sixth of it and `WITHIN`."""

_SCRIPT = """\
#!/bin/sh
[ "$1" = create ] && echo "$2"
exit 0
"""


def _start(client: Remote) -> str:
    """Begin a set as a backup program does; return "" or the name of the refusal."""
    try:
        begun = CopySet(client)
        begun.check("vms")
        begun.start()
        begun.abort()
    except FsrvpError as exc:
        if exc.hresult != HResult.FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS:
            raise
        return exc.name
    return ""


@pytest.fixture
def stock(
    samba_rig: Callable[..., PrivateSmbd],
    backup_operator: Callable[[PrivateSmbd], "BackupOperator"],
    rig_directory: Path,
) -> tuple[PrivateSmbd, Callable[[], Remote]]:
    """A Samba whose callouts do nothing, and a way to connect to it."""
    samba = samba_rig(options={"fss:sequence timeout": str(SEQUENCE)})
    operator = backup_operator(samba)
    script = rig_directory / "callout"
    script.write_text(_SCRIPT)
    script.chmod(0o755)
    path = rig_directory / "vms"
    path.mkdir()
    path.chmod(0o777)
    samba.set_share("vms", script_share("vms", path, script))
    samba.start()
    return samba, lambda: Remote(samba.address, operator.logon)


def test_stock_samba_is_stuck_for_ever(
    stock: tuple[PrivateSmbd, Callable[[], Remote]],
) -> None:
    """A set was committed, and client and worker are gone: the next worker reads it again."""
    samba, connect = stock
    with connect() as client:
        lost = CopySet(client)
        lost.start()
        lost.add("vms")
        lost.commit()
    samba.end_workers()
    with connect() as client:
        assert _start(client) == "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS"
        client.abort_shadow_copy_set(lost.id)
        assert _start(client) == "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS"
        time.sleep(SEQUENCE + 2)
        assert _start(client) == "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS"
    samba.end_workers()
    with connect() as client:
        assert _start(client) == "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS"
    state = fss_state.read(str(samba.lock_directory / "srv_fss.tdb"))
    assert state is not None
    assert [each.id for each in state.sets] == [str(lost.id)]


def test_stock_samba_forgets_its_timer_when_another_asks(
    stock: tuple[PrivateSmbd, Callable[[], Remote]],
) -> None:
    """A set was started, and its client is gone; it is in the worker's memory alone."""
    _, connect = stock
    for asking, expected in ((False, ""), (True, "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS")):
        with connect() as other:
            other.get_supported_version()
            with connect() as client:
                CopySet(client).start()
            if asking:
                assert _start(other) == "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS"
            time.sleep(SEQUENCE + 2)
            assert _start(other) == expected


def _attempt(client: Remote) -> str:
    """Return why a set cannot be started, or nothing."""
    try:
        return _start(client)
    except RvssError as exc:
        return str(exc)


def _gone(made: Lane, undo: ExitStack, client: Remote) -> None:
    client.close()
    made.rig.samba.end_workers()


def _closed(made: Lane, undo: ExitStack, client: Remote) -> None:
    client.close()


def _vanished(made: Lane, undo: ExitStack, client: Remote) -> None:
    undo.callback(made.link.mend)
    # What the server said last has been acknowledged: else it is for the kernel's retransmission
    # to give up (tcp(7), tcp_retries2: a quarter of an hour), not for keepalive.
    time.sleep(0.3)
    made.link.cut()
    client.close()
    time.sleep(0.5)
    assert made.link.established()


@pytest.mark.parametrize("how", [_gone, _closed, _vanished], ids=lambda how: how.__name__[1:])
@pytest.mark.parametrize("kind", ["btrfs", "zfs"])
def test_is_cured_while_another_client_asks_again_and_again(
    kind: str,
    how: Callable[[Lane, ExitStack, Remote], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The other client tries every second, on a connection that it keeps.

    A client that is seen to have gone, here after its Expose failed, does not have the time that
    Samba would give it.
    """
    patience = SEQUENCE if how is _vanished else SAMBAS
    with ExitStack() as undo:
        options = {"fss:sequence timeout": str(patience), "rpcd_fsrvp:idle_seconds": str(GRACE)}
        made = undo.enter_context(lane(kind, {}, options))
        client = made.far(undo) if how is _vanished else made.near(undo)
        driver = SetDriver(made, client)
        driver.add()
        driver.commit()
        if how is _closed:
            driver.expose_in_vain()
        # What is committed has a sixth of Samba's time at least.
        due = time.monotonic() + max(GRACE, patience / 6)
        how(made, undo, client)
        other, tried = made.near(undo), 1
        while refused := _attempt(other):
            if time.monotonic() > due + WITHIN:
                pytest.fail(f"{WITHIN:g} s past the timer: {refused}\n{made.rig.daemon.log()}")
            if "did not answer" in refused:  # its worker has been ended
                other.close()
                other = made.near(undo)
            time.sleep(1)
            tried += 1
        cured = time.monotonic() - due
        made.rig.assert_nothing_left(10)
    with capsys.disabled():
        print(f"\n{kind}, client {how.__name__[1:]}: {tried} tries, {cured:.1f} s past the timer")


def test_a_worker_is_ended_when_the_time_of_its_client_is_over_and_not_before() -> None:
    """A client that takes its time between its calls, and at last does nothing; another one knocks.

    Its connection stays, as that of a host that has lost its power does.
    """
    samba_options = {"fss:sequence timeout": str(SLOW_SEQUENCE)}
    with ExitStack() as undo:
        made = undo.enter_context(lane("btrfs", {}, samba_options))
        client, other = made.near(undo), made.near(undo)
        in_time = False
        while not in_time:
            taken = CopySet(client)
            taken.start()
            acts = [time.monotonic()]
            for act in (partial(taken.add, SHARES[0]), taken.prepare):
                while time.monotonic() < acts[-1] + SLOW_SEQUENCE - 1:
                    assert _start(other) == "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS"
                    time.sleep(0.5)
                in_time = time.monotonic() < acts[-1] + SLOW_SEQUENCE
                if not in_time:  # a busy host made it too slow; nothing can be said
                    break
                act()
                acts.append(time.monotonic())
            if not in_time:
                taken.abort()
        while refused := _attempt(other):
            if time.monotonic() > acts[-1] + SLOW_SEQUENCE + WITHIN:
                pytest.fail(f"{refused}\n{made.rig.daemon.log()}")
            if "did not answer" in refused:  # its worker has been ended
                other.close()
                other = made.near(undo)
            time.sleep(0.5)
        assert time.monotonic() > acts[-1] + SLOW_SEQUENCE
        (line,) = [line for line in made.rig.daemon.log().splitlines() if "is ended: " in line]
        assert f"the client of the set {taken.id} ([{SHARES[0]}])" in line
        assert line.count(f"uid {made.rig.operator.uid} for {made.path}/{SHARES[0]}") == 2
        made.rig.assert_nothing_left(10)


@pytest.mark.parametrize("how", [_gone, _closed, _vanished], ids=lambda how: how.__name__[1:])
@pytest.mark.parametrize("added", [False, True], ids=["started", "added"])
def test_what_only_a_worker_knows_goes_with_it(
    how: Callable[[Lane, ExitStack, Remote], None],
    added: bool,  # noqa: FBT001
) -> None:
    """Before Commit a set is nowhere but in a worker, which leaves when it has no connection.

    How soon a connection to a client that has vanished ends is for "socket options" to say.
    """
    samba_options = {
        "rpcd_fsrvp:idle_seconds": "2",  # 60 without the option
        "socket options": "TCP_NODELAY TCP_KEEPIDLE=2 TCP_KEEPINTVL=1 TCP_KEEPCNT=2",
    }
    with ExitStack() as undo:
        made = undo.enter_context(lane("btrfs", {}, samba_options))
        driver = SetDriver(made, made.far(undo) if how is _vanished else made.near(undo))
        driver.start()
        if added:
            driver.add()
        how(made, undo, driver.client)
        wait_until("no worker", lambda: not made.rig.samba.worker_pids(), WITHIN)
        made.assert_a_fresh_set_works()
        made.rig.assert_nothing_left()


@pytest.mark.parametrize("state", [SetState.STARTED, SetState.ADDED], ids=lambda s: s.name)
def test_a_set_that_was_begun_and_left_and_came_into_the_file(
    rig: "Rig", state: SetState, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samba writes all sets that it has in memory whenever it writes one: the next worker reads it.

    It has no shadow copies yet, or such as have no path (source3/rpc_server/fss/srv_fss_state.c,
    fss_state_store()).
    """
    options = {"rvss:recovery timeout": f"{RECOVERY} s", "rvss:grace": f"{GRACE} s"}
    rig.samba.set_options(options)
    for name in SHARES:
        rig.share(name, rig.volume(name))
    rig.start()
    with rig.client() as client, rig.client() as other:
        taken = rig.expose(client, SHARES[0])
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        begun = CopySet(other, Context.AUTO_RECOVERY)
        begun.start()
        if state is SetState.ADDED:
            begun.add(*SHARES[1:])
            begun.prepare()
        taken.delete()
    assert rig.sets() == [state]
    rig.samba.end_workers()
    due = time.monotonic() + GRACE
    wait_until("Samba's file is clean", lambda: not rig.sets(), 20.0 * SLOW)
    with capsys.disabled():
        print(f"\n{state.name}: {time.monotonic() - due:.1f} s")
    rig.assert_a_fresh_set_works(SHARES[0])
    rig.assert_nothing_left()
