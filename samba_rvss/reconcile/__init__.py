"""Reconciling: bring ledger, images, mounts, shares and Samba's sets back into one state.

    observation   everything that a plan depends on, as values; each can be missing
    decision      what a plan is made of, as values: what to do, what to leave alone, and why
    plan          a pure function from an observation to a plan
      draft         a plan in the making
      copies        what is decided about shadow copies
      images        what is decided about images that belong to no shadow copy
      strays        what is decided about mounts and shares that belong to none
      sets          what is decided about Samba's sets
    apply         carries out one action at a time, after checking that it is still called for
    report        what was decided and done, as findings

Reconciling makes a crash at any instruction harmless, and so a vanished client, a reboot and a
half-failed Commit. What cannot be proven is left alone and reported.
"""
