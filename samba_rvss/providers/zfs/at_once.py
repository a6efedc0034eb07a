"""A program that holds snapshots, and clones others that inherit all that they have, side by side.

Place: `batch` gives its text to a Python of its own, which has nothing of ours to import. What
waits for a pool can so be given up, as a run of zfs(8) can be. zfs(8) would take a program for
each, and the kernel does all holds in one transaction group (libzfs_core.h, lzc_hold()).

Standard input is an object with ``holds``, the tag of each snapshot, and ``clones``, the origin of
each clone. Standard output has a line, as soon as it was done, for each of them: a list of ``held``
or ``cloned`` and a name. Of what was not done zfs(8) will say why.
"""

import ctypes
import json
import os
import sys
from threading import Thread


def main() -> None:
    """Do what standard input says."""
    wanted = json.load(sys.stdin)
    core, pairs = ctypes.CDLL("libzfs_core.so.3"), ctypes.CDLL("libnvpair.so.3")
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    pairs.nvlist_alloc.argtypes = [ctypes.POINTER(pointer), ctypes.c_uint, ctypes.c_int]
    pairs.nvlist_add_string.argtypes = [pointer, text, text]
    pairs.nvlist_next_nvpair.argtypes, pairs.nvlist_next_nvpair.restype = [pointer] * 2, pointer
    pairs.nvpair_name.argtypes, pairs.nvpair_name.restype = [pointer], text
    core.lzc_hold.argtypes = [pointer, ctypes.c_int, ctypes.POINTER(pointer)]
    core.lzc_clone.argtypes = [text, text, pointer]
    if core.libzfs_core_init():
        sys.exit("libzfs_core cannot be used")

    def tell(what: str, name: str) -> None:
        os.write(1, f"{json.dumps([what, name])}\n".encode())  # whole, whoever writes beside

    def hold() -> None:
        made, failed = pointer(), pointer()
        if pairs.nvlist_alloc(made, 1, 0):  # NV_UNIQUE_NAME
            return
        for name, tag in wanted["holds"].items():
            if pairs.nvlist_add_string(made, name.encode(), tag.encode()):
                return
        if core.lzc_hold(made, -1, failed):  # none is held then
            return
        missing = set()
        if failed:  # those of what is not there any more
            pair = pairs.nvlist_next_nvpair(failed, None)
            while pair:
                missing.add(pairs.nvpair_name(pair).decode())
                pair = pairs.nvlist_next_nvpair(failed, pair)
        for name in wanted["holds"]:
            if name not in missing:
                tell("held", name)

    def clone(name: str, origin: str) -> None:
        if not core.lzc_clone(name.encode(), origin.encode(), None):
            tell("cloned", name)

    threads = [Thread(target=hold)]
    threads += [Thread(target=clone, args=pair) for pair in wanted["clones"].items()]
    started = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:  # no more are to be had
            thread.run()
        else:
            started.append(thread)
    for thread in started:
        thread.join()


if __name__ == "__main__":
    main()
