"""Reconciling: bring ledger, images, mounts, shares and Samba's sets back into one state.

    observation   everything that a plan depends on, as values; each can be missing
    decision      what a plan is made of, as values: what to do, what to leave, and why
    plan          one pure function from one to the other
      draft         what it writes on: a plan in the making
      copies        what it decides about shadow copies
      strays        about what belongs to no shadow copy
      sets          about Samba's sets
    apply         one action at a time, each idempotent, none believing a plan that has aged
    report        what was decided and done, as findings

This is what makes a crash at any instruction harmless, and a vanished client, a reboot, a
half-failed Commit. What cannot be proven is left alone and said.
"""
