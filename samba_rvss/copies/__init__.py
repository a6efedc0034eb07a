"""Shadow copies: an instance as a value, and the verbs for its copies.

    instance    what the verbs work on: configuration, ledger, mounts, providers, python-samba
    locate      where a share sits, and whether it can be snapshotted
    create      reserve, take, publish; all of it undone if a step fails
    follow      what srv_fss.tdb calls for: learn, open
    seal        read-only for good, and verified to be
    delete      mounts, image, share; what Samba leaves behind
    leases      who reads a backup, so that it is not deleted
    reading     the parts of a backup, open to be mounted; where they are
    disks       what was found of an image's virtual disks
    examine     what is in a share that backup programs stumble over
    carry       a program that reads a backup where the share is
    attached    a backup mounted to be looked into
    restoring   who restores into a volume, so that nobody backs it up meanwhile
    restore     what is in a backup, brought back
    in_use      what clients have open of that which is to be replaced
    machines    a virtual machine in a backup
    guard       a backup of what is there before something is overwritten
    exposed     the shares in Samba's registry that show copies to clients
    repair      what reconciling does: adopt, mount again, seal again, destroy image, delete set

Verbs are functions of an instance and a copy, and they block. The caller sees to it that they run
one at a time on a volume, and one at a time on a copy. At whatever instruction a crash cuts a verb
off, the ledger, the images' marks, the mount table and srv_fss.tdb together tell how far it had
come, and reconciling finishes or undoes it.
"""
