"""System calls that Python does not wrap, and what /proc says.

    libc          the door to the C library
    files         opened with restrictions, what file system they are on, locks
    inotify       what happens to files and directories
    mounting      detached mounts, their attributes, and where they are put
    mounttable    /proc/self/mountinfo
    private       a program in a mount namespace of its own
    processes     who they are, what they have open, who is at the other end of a socket

Nothing here imports anything else of ours. Errors are OSError, with the file's name; constants keep
the names that the kernel's headers give them.
"""
