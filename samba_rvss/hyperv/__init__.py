"""Hyper-V's files in a tree: virtual disks, how they hang together, and virtual machines.

    disk        what a disk says of itself; vhdx and vhd: the two formats
    chains      which disk is whose parent
    layout      which files are of which machine, by their names
    survey      all of that in one tree
    report      what was found, as it is sent and written down; apart: a process that looks

Place: beside the manifests, whose way of opening what users have made it uses; it knows neither
backups nor Samba. Contract: whatever a file says of itself is the guest's or the client's word: it
leads to no file outside of the tree, costs a bounded number of bytes to read, and is never an
error of ours.
"""
