#!/usr/bin/python3 -ISE
"""The callout of vfs_shell_snap: hand Samba's words to the daemon, its answer to Samba.

    hook [-S SOCKET] check|create PATH…
    hook [-S SOCKET] delete PATH… SNAPSHOT

Standard library only and no imports of ours: it runs inside a client's freeze window, once for
each share, with the client's uid and smbd's environment. It parses nothing: the daemon knows the
caller from the kernel and matches the words against smb.conf and the ledger.
"""

import _socket
import posix
import sys
import time

SOCKET = "/run/samba-rvss/hook.sock"
# Longer than the daemon's commit deadline, so that its answer, after undoing, still arrives;
# shorter than the 60 s that Windows gives CommitShadowCopySet.
SECONDS = 58
MAXIMUM = 16384
INTERNAL, USAGE, NO_DAEMON = 1, 2, 22


def fail(status, sentence):
    # Samba's log has what others write too: what is not printable is escaped.
    shown = "".join([char if char.isprintable() else ascii(char)[1:-1] for char in sentence])
    sys.stderr.write("samba-rvss hook: " + shown + "\n")
    return status


def main(argv):
    words, socket = argv[1:], SOCKET
    if len(words) > 1 and words[0] == "-S":
        socket, words = words[1], words[2:]
    if len(words) < 2 or words[0] not in ("check", "create", "delete"):
        return fail(USAGE, "usage: hook [-S SOCKET] check|create|delete PATH...")
    encoding = sys.getfilesystemencoding()
    request = b"\0".join([word.encode(encoding, "surrogateescape") for word in words])
    if len(request) > MAXIMUM:
        return fail(USAGE, "the arguments are longer than %d bytes" % MAXIMUM)
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    # With settimeout(), connect() would not wait for a place in a full queue (unix(7), EAGAIN); by
    # itself it does, in turn with others, for as long as this says (socket(7), a struct timeval, of
    # 4 or 8 bytes a word, also on 32 bits; more than the kernel takes is no error).
    limit = SECONDS.to_bytes(8, sys.byteorder) + bytes(8)
    peer.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
    began = time.monotonic()
    try:
        peer.connect(socket)
    except OSError as exc:
        return fail(
            NO_DAEMON,
            "cannot reach the daemon at %s (%s): start samba-rvss.service" % (socket, exc.strerror),
        )
    peer.settimeout(max(1, SECONDS - (time.monotonic() - began)))
    try:
        peer.send(request)
    except OSError:
        pass  # a refusal may already wait to be read
    try:
        try:
            reply = peer.recv(MAXIMUM)
        except ConnectionResetError:
            # The daemon refused without reading; its answer comes after this error.
            reply = peer.recv(MAXIMUM)
    except OSError as exc:
        return fail(
            NO_DAEMON,
            "the daemon did not answer within %d s (%s): see its journal" % (SECONDS, exc),
        )
    if not reply:
        return fail(NO_DAEMON, "the daemon closed the connection without an answer")
    status, line = reply[0], reply[1:]
    if status:
        return fail(status, line.decode("utf-8", "surrogateescape"))
    if line:
        # A path is bytes, whatever locale smbd has.
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    result = main(sys.argv)
    sys.stderr.flush()
    # Without the interpreter's tidying up, which takes a millisecond of the freeze window.
    posix._exit(result)
