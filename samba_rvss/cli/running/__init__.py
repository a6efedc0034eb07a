"""``samba-rvss backup run``: a managed backup is taken, by us as the client of FSRVP.

`verb` is the command. Another process does the work (`work`), because python-samba can block, and
because whatever ends the command must not end that before it has cleared away. `order` is what it
is told, `commands` are the programs that the definition names, `own` is what our own server is
asked for beside FSRVP, `ending` undoes what was begun; what is written down meanwhile is in
`samba_rvss.copies.runs`.
"""
