"""The daemon: the one writer of an instance, and what runs when.

    service     the whole: begins, serves, ends
    holding     becoming the one writer: directories, lock, ledger
    present     the instance as smb.conf has it now
    turns       who waits for whom
    tasks       threads and tasks, and how they come to their end
    watcher     following srv_fss.tdb; sealer: what goes on until a copy is sealed
    runner      when to reconcile
    requests    what clients and administrators ask for
    sockets     listening and admitting; hook, admin: one side each of the two sockets
    boot        reconciling without a daemon, before smbd starts

Contract: nothing in the event loop reads the ledger or a file, or waits for a program; it changes
the attributes of mounts, because that is what must not wait for anything else.
"""
