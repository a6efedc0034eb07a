"""Shadow copies: an instance as a value, and what can be done with one copy of it.

    instance    what the verbs work on: configuration, ledger, mounts, providers, python-samba
    locate      where a share sits, and whether it can be snapshotted
    create      reserve, take, publish; all of it undone if a step fails
    follow      what srv_fss.tdb calls for: learn, open
    seal        read-only for good, and proven to be
    delete      mounts, image, share; what Samba leaves behind
    exposed     the shares in Samba's registry that show copies to clients
    repair      what reconciling does: adopt, mount again, seal again, destroy an image

Verbs are functions of an instance and a copy, and they block: their caller sees to it that those
of one volume, and those of one copy, run one at a time. What a crash cuts off can be told from the
ledger, the images' marks, the mount table and srv_fss.tdb together, at every instruction, and
reconciling finishes or undoes it.
"""
