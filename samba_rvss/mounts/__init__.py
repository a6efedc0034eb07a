"""Recovery mounts: the share's own directory inside an image, at a path that Samba can serve.

    way           who may walk to the share, and so to its copies
    places        the paths of recovery mounts, and which of a mount table's are such
    directories   those that they are mounted on, and the gates before them
    previous      the directories of Previous Versions
    demand        backups there, mounted when somebody looks into them
    covering      an autofs over a directory, and away again
    sharing       the run directory, a shared mount
    tree          an image's parts, put together
    alone         file systems that nothing else keeps in use
    layers        what is mounted at one path, one over the other
    mounts        all of one instance: attach, open, close, replace, detach

Contract: a mount never changes: to open, to close and to seal a copy is to mount or to unmount a
layer, because mounts and unmounts reach the mount namespaces that follow ours, and changed
attributes do not. Mounts outlive the daemon.
"""

from samba_rvss.mounts.mounts import Mounts
from samba_rvss.mounts.places import escape, image_of
from samba_rvss.mounts.places import previous as previous_directory

__all__ = ["Mounts", "escape", "image_of", "previous_directory"]
