"""The daemon: both sockets, one writer, and what runs when.

Requests run side by side, those of one volume one at a time. A request is authorised before a byte
of it is read, has a time limit, and is undone if its answer cannot be delivered.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from samba_rvss import admin, instance, wire
from samba_rvss.access import authorise
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import Peer, peer_credentials
from samba_rvss.ledger import now
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.reconcile.runner import Runner
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess
from samba_rvss.watcher import Watcher, in_thread
from systemd import daemon as systemd

_logger = logging.getLogger(__name__)

Serve: TypeAlias = Callable[[socket.socket, Peer], Coroutine[Any, Any, None]]

_REQUEST_SECONDS = 5.0
_STOP_SECONDS = 30.0
_RETRY_SECONDS = 1.0
# How long a deletion may keep Samba's only worker from other clients, once nobody can reach it.
_DESTROY_SECONDS = 1.0
_HISTORY = timedelta(days=90)
_DAY_SECONDS = 86400.0
_THREADS = 64


class Daemon:
    """One instance of samba-rvss.

    Args:
        configfile: smb.conf, or an empty string for Samba's own.
        reached: called at each of `samba_rvss.lifecycle.POINTS`; for tests of crashes.
    """

    def __init__(
        self, configfile: str = "", reached: Callable[[str], None] = lambda point: None
    ) -> None:
        self._configfile = configfile
        self._reached = reached
        self._samba = SambaProcess()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._requests: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._refused: dict[int, tuple[float, int]] = {}
        self._signature: tuple[object, ...] = ()
        self._reading = asyncio.Lock()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RvssError: CONFIG, STATE or SYSTEM if it cannot start.
        """
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="rvss"))
        os.umask(0o077)
        with ExitStack() as cleanup:
            cleanup.callback(self._samba.close)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stopping.set)
            config = await in_thread(self._samba.call, conf.load, self._configfile)
            self._signature = conf.signature(config)
            self._lifecycle = instance.take(config, self._samba, cleanup, self._reached)
            self._watcher = Watcher(self._lifecycle, self._on_written)
            self._runner = Runner(self._lifecycle, self._watcher, self._samba, self._only)
            await self._begin()
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
            hook, admin = instance.listen(config, cleanup)
            tasks = [
                asyncio.ensure_future(self._watcher.run()),
                asyncio.ensure_future(self._runner.run()),
                asyncio.ensure_future(self._accept(hook, self._serve_hook)),
                asyncio.ensure_future(self._accept(admin, self._serve_admin)),
                asyncio.ensure_future(self._housekeep()),
                asyncio.ensure_future(self._stopping.wait()),
            ]
            ours = len(config.shares)
            _logger.info("serving %d shares of %s at %s", ours, config.file, config.hook_socket)
            systemd.notify("READY=1")
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                systemd.notify("STOPPING=1")
                await self._stop(tasks)

    async def _stop(self, tasks: Sequence["asyncio.Future[Any]"]) -> None:
        """Let requests that have begun come to their end, within limits."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._requests:
            _logger.info("waiting for %d requests", len(self._requests))
            await asyncio.wait(self._requests, timeout=_STOP_SECONDS)
        _logger.info("stopped; recovery mounts stay as they are")

    async def _begin(self) -> None:
        """Finish or undo what was cut off, then follow every copy; before requests are served."""
        await self._runner.reconcile(starting=True)
        for copy in self._lifecycle.ledger.copies():
            if copy.phase is not Phase.DELETING:
                self._watcher.track(copy)

    def _on_written(self) -> None:
        self._runner.heard()

    async def _housekeep(self) -> None:
        """Once a day, forget the history of copies that went long ago."""
        while True:
            await in_thread(self._lifecycle.ledger.forget, now() - _HISTORY)
            await asyncio.sleep(_DAY_SECONDS)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    # configuration

    def _on_hangup(self) -> None:
        self._signature = ()
        self._spawn(self._refresh())

    async def _refresh(self) -> None:
        """Read smb.conf again if it, a file it includes, or the registry has changed."""
        async with self._reading:
            current = self._lifecycle.config
            signature = conf.signature(current)
            if signature == self._signature:
                return
            if signature[:-1] != self._signature[:-1]:
                # Samba's library keeps the shares and options that have gone from a file that it
                # reads again (source3/param/loadparm.c, add_a_service()): take a fresh process.
                await in_thread(self._samba.close)
            self._signature = signature
            try:
                config = await in_thread(self._samba.call, conf.load, self._configfile)
            except RvssError as exc:
                _logger.error("the changed configuration is not used: %s", exc)
                return
            fixed = ("run_directory", "state_directory", "samba_lock_directory")
            moved = [name for name in fixed if getattr(config, name) != getattr(current, name)]
            if moved:
                _logger.error(
                    "the changed configuration is not used: %s can change at a restart only",
                    " and ".join(name.replace("_", " ") for name in moved),
                )
                return
            for warning in set(config.warnings) - set(current.warnings):
                _logger.warning("%s", warning)
            self._lifecycle.config = config
            self._signature = conf.signature(config)
            instance.make_previous(self._lifecycle)

    # sockets

    async def _accept(self, listener: socket.socket, serve: "Serve") -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as exc:
                _logger.error("cannot accept a connection: %s", exc)
                await asyncio.sleep(0.1)
                continue
            connection.settimeout(0)
            try:
                peer = self._admit(listener, connection)
            except RvssError as exc:
                self._log_refusal(connection, exc)
                with suppress(OSError):
                    connection.send(wire.encode_reply(exc.problem, exc.line()))
                connection.close()
            else:
                self._spawn(serve(connection, peer))
            # One who connects without end must not keep others from being served.
            await asyncio.sleep(0)

    def _admit(self, listener: socket.socket, connection: socket.socket) -> Peer:
        if listener.getsockname().endswith("/admin.sock"):
            peer = peer_credentials(connection)
            if peer.uid != 0:
                raise RvssError(Problem.REFUSED, "only root may use this socket")
            return peer
        return authorise(connection)

    def _log_refusal(self, connection: socket.socket, exc: RvssError) -> None:
        """Log refusals, one line a second for each user."""
        uid = peer_credentials(connection).uid
        since, count = self._refused.get(uid, (0.0, 0))
        if time.monotonic() - since < 1.0:
            self._refused[uid] = (since, count + 1)
            return
        more = f" (and {count} before)" if count else ""
        _logger.warning("refused: %s%s", exc.line(), more)
        if len(self._refused) > 1000:
            self._refused.clear()
        self._refused[uid] = (time.monotonic(), 0)

    async def _receive(self, connection: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                data = await loop.sock_recv(connection, wire.MAXIMUM + 1)
        except TimeoutError as exc:
            raise RvssError(Problem.BAD_REQUEST, "no request came in time") from exc
        return data

    async def _serve_hook(self, connection: socket.socket, peer: Peer) -> None:
        started = time.monotonic()
        verb, subject, made = "request", "", None
        try:
            data = await self._receive(connection)
            if not data:
                # Closed, or an empty request; somebody may have looked whether we are here.
                _logger.debug("uid %d connected and said nothing", peer.uid)
                with suppress(OSError):
                    empty = wire.encode_reply(Problem.BAD_REQUEST, "the request is empty")
                    connection.send(empty)
                connection.close()
                return
            request = wire.decode_hook(data)
            self._runner.heard()
            verb, subject = request.verb, " ".join(request.words)
            status, line = 0, ""
            if verb == "check":
                await self._refresh()
                await in_thread(self._lifecycle.check, request.words)
            elif verb == "create":
                made = await self._create(request.words, peer.uid, started)
                line, subject = made.path, f"[{made.share}] {made.id}"
            else:
                await self._refresh()
                copy = await in_thread(self._lifecycle.find, request.words)
                subject = f"[{copy.share}] {copy.id}"
                await self._delete_for_samba(copy, peer.uid)
        except RvssError as exc:
            status, line = int(exc.problem), exc.line()
        except Exception:
            _logger.exception("%s %s failed", verb, subject)
            status, line = int(Problem.INTERNAL), "an internal error; see samba-rvss's journal"
        try:
            connection.send(wire.encode_reply(status, line))
        except OSError as exc:
            if made is not None:
                await self._withdraw(made, f"Samba did not wait for the answer ({exc.strerror})")
        else:
            if made is not None:
                self._watcher.track(made)
        finally:
            connection.close()
        _log_request(verb, subject, peer.uid, time.monotonic() - started, status, line)

    async def _create(self, words: tuple[str, ...], uid: int, started: float) -> ShadowCopy:
        lifecycle = self._lifecycle
        deadline = started + lifecycle.config.commit_deadline
        share = conf.find_share(lifecycle.config, words)
        target = await in_thread(lifecycle.locate, share)
        async with self._only(target.volume.key, deadline):
            try:
                return await in_thread(lifecycle.create, target, uid, deadline)
            except RvssError:
                self._runner.wake(_RETRY_SECONDS)
                raise

    async def _delete_for_samba(self, copy: ShadowCopy, uid: int) -> None:
        """Delete a copy without letting Samba wait for the file system.

        One rpcd_fsrvp serves all clients, a request at a time: while it waits for us, no other
        client can commit. As soon as a copy is recorded as being deleted and nobody can reach it,
        it is gone for Samba; an image that somebody keeps busy is destroyed when it is let go.
        """
        loop, hidden = asyncio.get_running_loop(), asyncio.Event()
        deletion = asyncio.ensure_future(
            self._delete(copy, uid, lambda: loop.call_soon_threadsafe(hidden.set))
        )
        self._requests.add(deletion)
        deletion.add_done_callback(self._requests.discard)
        seen = asyncio.ensure_future(hidden.wait())
        await asyncio.wait({deletion, seen}, return_when=asyncio.FIRST_COMPLETED)
        seen.cancel()
        await asyncio.wait({deletion}, timeout=_DESTROY_SECONDS)
        if not deletion.done():
            deletion.add_done_callback(partial(_log_late, copy))
            return
        try:
            deletion.result()
        except RvssError as exc:
            if exc.problem is not Problem.BUSY or not hidden.is_set():
                raise
            _log_late(copy, deletion)

    async def _delete(
        self, copy: ShadowCopy, uid: int, hidden: Callable[[], object] = lambda: None
    ) -> None:
        """Delete a copy; if that fails, the client is told so and it is tried again later."""
        await self._watcher.release(copy)
        async with self._only(copy.volume.key):
            try:
                await in_thread(self._lifecycle.delete, copy, uid, hidden)
            except RvssError:
                self._runner.wake(_RETRY_SECONDS)
                raise

    async def _withdraw(self, copy: ShadowCopy, reason: str) -> None:
        _logger.warning("[%s] %s is withdrawn: %s", copy.share, copy.id, reason)
        async with self._only(copy.volume.key):
            try:
                await in_thread(self._lifecycle.withdraw, copy, reason)
            except RvssError as exc:
                _logger.error("[%s] %s cannot be withdrawn yet: %s", copy.share, copy.id, exc)
                self._runner.wake(_RETRY_SECONDS)

    @asynccontextmanager
    async def _only(self, key: str, deadline: float | None = None) -> AsyncIterator[None]:
        """Be the only one for a key, or fail at the deadline (`time.monotonic`)."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with asyncio.timeout(deadline and deadline - time.monotonic()):
                await lock.acquire()
        except TimeoutError as exc:
            raise RvssError(
                Problem.DEADLINE, "other requests for the same volume took too long", "try again"
            ) from exc
        try:
            yield
        finally:
            lock.release()

    async def _serve_admin(self, connection: socket.socket, peer: Peer) -> None:
        started = time.monotonic()
        verb, subject = "admin request", ""
        try:
            request = wire.decode_admin(await self._receive(connection))
            verb, subject = request.verb, request.copy
            if verb == "reload":
                self._signature = ()
                await self._refresh()
                line = "the configuration was read"
            elif verb == "reconcile":
                await self._refresh()
                line = await admin.reconcile(connection, self._runner)
            elif verb == "status":
                line = await admin.tell(connection, self._runner)
            else:
                copy = await in_thread(self._lifecycle.ledger.get, request.copy)
                if copy is None:
                    raise RvssError(Problem.NOT_FOUND, f"there is no shadow copy {request.copy}")
                await self._delete(copy, peer.uid)
                self._runner.wake(_RETRY_SECONDS)  # Samba still has its set
                line = f"{copy.id} is deleted"
            status = 0
        except RvssError as exc:
            status, line = int(exc.problem), exc.line()
        except Exception:
            _logger.exception("%s %s failed", verb, subject)
            status, line = int(Problem.INTERNAL), "an internal error; see samba-rvss's journal"
        await admin.send(connection, wire.encode_result(status, line))
        connection.close()
        if verb != "status" or status:
            _log_request(verb, subject, peer.uid, time.monotonic() - started, status, line)


def _log_late(copy: ShadowCopy, deletion: "asyncio.Task[None]") -> None:
    """Log why an image is still there of a copy that is gone for Samba; it is tried again."""
    exc = None if deletion.cancelled() else deletion.exception()
    if isinstance(exc, RvssError):
        _logger.warning("[%s] %s: its image is still there: %s", copy.share, copy.id, exc)
    elif exc is not None:
        _logger.error("[%s] %s: its image is still there", copy.share, copy.id, exc_info=exc)


def _log_request(verb: str, subject: str, uid: int, seconds: float, status: int, line: str) -> None:
    level = logging.ERROR if status else logging.INFO
    outcome = f"failed ({Problem(status).name}): {line}" if status else "done"
    what = f"{verb} {subject}".rstrip().encode("utf-8", "backslashreplace").decode("utf-8")[:300]
    _logger.log(level, "%s by uid %d in %.1f ms: %s", what, uid, seconds * 1000, outcome)
