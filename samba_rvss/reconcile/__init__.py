"""Reconciling: bring ledger, images, mounts, shares and Samba's sets back into one state.

    observation   everything that a plan depends on, as values; each can be missing
    plan          one pure function: what to do, what to leave, and why
    apply         one action at a time, each idempotent, none believing a plan that has aged

This is what makes a crash at any instruction harmless, and a vanished client, a reboot, a
half-failed Commit. What cannot be proven is left alone and said.
"""
