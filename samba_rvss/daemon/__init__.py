"""The daemon: the one writer of an instance, and what runs when.

    service     the whole: begins, serves, ends
    holding     becoming the one writer: directories, lock, ledger
    present     the instance as smb.conf has it now
    turns       who waits for whom
    tasks       threads and tasks, and how they come to their end
    watcher     following srv_fss.tdb; sealer: sealing a copy, for as long as it takes
    disks       a process that looks at the virtual disks of what was sealed
    runner      when to reconcile; fates: what becomes of what does not end
    requests    what clients and administrators ask for; deletions and adoptions: theirs
    sockets     listening and admitting; hook, admin: answering on one of the two sockets each
    versions    backups in Previous Versions; keeper: a process that answers when we do not
    boot        reconciling without a daemon, before smbd starts

Contract: the event loop never reads the ledger or a file (but /proc, to admit a caller), and never
waits for a program. It changes the attributes of mounts itself, because opening a recovery mount
must not wait for anything else.
"""
