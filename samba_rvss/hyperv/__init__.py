"""Hyper-V's files in a tree: virtual disks, how they hang together, and virtual machines.

Place: beside the manifests, whose way of opening what users have made it uses; it knows neither
backups nor Samba. Contract: whatever a file says of itself is the guest's or the client's word: it
leads to no file outside of the tree, costs a bounded number of bytes to read, and is never an
error of ours.
"""
