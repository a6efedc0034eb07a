"""The checks of ``samba-rvss doctor`` that are about the server as a whole, by name."""

from collections.abc import Mapping

from samba_rvss.cli.doctor.check import CONF, MACHINE, OURS, SAMBA, Check, Severity, check

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

OF_SERVER: Mapping[str, Check] = {
    "configuration": check(
        CONF,
        ERROR,
        "smb.conf and the registry can be read",
        "nothing works without it",
        "run 'testparm -s', and 'net conf list'",
    ),
    "registry": check(
        CONF,
        ERROR,
        "clients reach the shares in Samba's own registry",
        "Samba exposes each shadow copy as a share of its registry",
        "set 'registry shares = yes' and 'include = registry' in [global]",
    ),
    "include": check(
        CONF,
        WARNING,
        "smbd notices when its registry changes",
        "Samba exposes each shadow copy as a share of its registry",
        "write 'include = registry' into [global]",
    ),
    "workers": check(
        CONF,
        ERROR,
        "there is one FSRVP worker",
        "each worker rewrites the sets of all: clients erase each other's shadow copy sets",
        "set 'rpcd_fsrvp:num_workers = 1' in [global]",
    ),
    "idle": check(
        CONF,
        WARNING,
        "a worker forgets the set of a client that has vanished soon",
        "until then every other client is refused",
        "set 'rpcd_fsrvp:idle_seconds = 10' in [global]",
    ),
    "sequence": check(
        CONF,
        WARNING,
        "clients have the time that MS-FSRVP gives them",
        "what takes longer is forgotten, and what is never forgotten is in the way of all others",
        "take 'fss:sequence timeout' out of [global]",
    ),
    "prune-stale": check(
        CONF,
        ERROR,
        "'fss:prune stale' is off",
        "with it rpcd_fsrvp crashes when it starts",
        "take 'fss:prune stale' out of [global]",
    ),
    "domain-controller": check(
        CONF,
        ERROR,
        "it is no Active Directory domain controller",
        "Samba offers no Remote VSS on one",
        "have a member server serve the shares",
    ),
    "readable": check(
        CONF,
        WARNING,
        "every client's user can read smb.conf",
        "Samba opens it as the client's user when it exposes a shadow copy, and fails",
        "chmod 644 smb.conf, and chmod 755 the directories above it",
    ),
    "netbios": check(
        CONF,
        WARNING,
        "the name that clients are told to connect to leads here",
        "IsPathSupported answers with Samba's NetBIOS name, and that is where a client goes on",
        "set 'netbios name' to the host's, or give that name an entry in DNS and an SPN",
    ),
    "lock-directory": check(
        CONF,
        WARNING,
        "Samba's sets are on a local file system",
        "samba-rvss hears of each change of srv_fss.tdb by inotify, and Samba locks it",
        "set 'lock directory' to one on a local file system",
    ),
    "installed": check(
        SAMBA,
        ERROR,
        "Samba's programs and the shares' VFS modules are installed",
        "nobody serves Remote VSS, or the share, without them",
        "install them",
    ),
    "smbd": check(
        SAMBA,
        WARNING,
        "smbd runs",
        "clients get nothing, and what only a running Samba tells is not checked",
        "systemctl start smbd.service",
    ),
    "helpers": check(
        SAMBA,
        ERROR,
        "Samba starts its FSRVP worker",
        "nobody serves Remote VSS",
        "take 'rpc start on demand helpers' out of [global], or start samba-dcerpcd",
    ),
    "stale-worker": check(
        SAMBA,
        WARNING,
        "no worker is older than smb.conf",
        "rpcd_fsrvp reads smb.conf only when it starts: a share that was added since is unknown to"
        " it, and clients get 0x80070057 (E_INVALIDARG)",
        "wait until it has had no client for 'rpcd_fsrvp:idle_seconds', or end it while nobody"
        " takes a shadow copy",
    ),
    "versions": check(
        SAMBA,
        WARNING,
        "what runs is what is installed",
        "programs of two versions need not understand each other",
        "restart the service that is named",
    ),
    "daemon": check(
        OURS,
        ERROR,
        "the daemon answers",
        "without it, Samba's callouts fail and nothing is sealed",
        "systemctl enable --now samba-rvss.service",
    ),
    "namespace": check(
        OURS,
        ERROR,
        "smbd sees the daemon's mounts",
        "a shadow copy is a mount: where it does not appear, the backup is empty",
        "let smbd have the run directory as a slave mount of the daemon's mount namespace, and give"
        " samba-rvss.service no option that makes one for it",
    ),
    "confinement": check(
        OURS,
        NOTE,
        "no security module confines Samba",
        "AppArmor or SELinux may keep it from running the hook, from the hook's socket and from"
        " what the daemon mounts",
        "see the kernel's log for what is denied, and let the profile run the hook and use the run"
        " directory",
    ),
    "permissions": check(
        OURS,
        ERROR,
        "the daemon may do what it needs to",
        "clients are refused",
        "give it the capabilities and devices that are named",
    ),
    "instance": check(
        OURS,
        WARNING,
        "images of this instance can be told from those of others",
        "a copy of the state directory on another machine would be taken for this one",
        "set 'rvss:instance' in [global], or make /etc/machine-id",
    ),
    "ledger": check(
        OURS,
        WARNING,
        "the ledger is whole",
        "what is recorded nowhere else is lost",
        "see 'samba-rvss list', and remove the file that is named",
    ),
    "reconciling": check(
        OURS,
        ERROR,
        "the last reconciling did what it was to do",
        "something stays that should not, or is not seen",
        "run 'samba-rvss reconcile'",
    ),
    "sealed": check(
        OURS,
        ERROR,
        "every recovered shadow copy is sealed",
        "what is not sealed may still change",
        "see the journal of samba-rvss.service",
    ),
    "late": check(
        OURS,
        ERROR,
        "nothing takes longer than it should",
        "Windows gives a Commit 60 seconds",
        "see what the disks do",
    ),
    "blocked": check(
        OURS,
        ERROR,
        "no set is in the way of others",
        "until its end Samba refuses every other client with 0x80042316",
        "run 'samba-rvss reconcile', or delete the copies that are named",
    ),
    "orphans": check(
        OURS,
        WARNING,
        "everything is accounted for",
        "what nothing accounts for holds space, or a share or a mount that nobody can use",
        "see 'samba-rvss reconcile --dry-run'",
    ),
    "foreign": check(
        OURS,
        NOTE,
        "there are no images of others",
        "what is not provably this instance's is never touched, and holds space",
        "see 'samba-rvss list --all', and 'samba-rvss adopt' for what was moved here",
    ),
    "held": check(
        OURS,
        WARNING,
        "no file system is in use by our mounts alone",
        "it cannot be mounted anew, or checked, until they are gone",
        "delete the copies, or 'samba-rvss backup umount' what is mounted",
    ),
    "notify": check(
        OURS,
        WARNING,
        "'rvss:notify command' is run, or there is none",
        "nobody is told of what goes wrong",
        "correct it, and try it with 'samba-rvss notify'",
    ),
    "backups": check(
        OURS,
        ERROR,
        "no share's newest backup is too old, and pruning does its work",
        "a backup that quietly stopped is noticed when it is needed",
        "see 'samba-rvss backup list', and the log of the backup program",
    ),
    "probe": check(
        OURS,
        ERROR,
        "a shadow copy can be taken",
        "what a client asks for fails in the same way",
        "do what the message says, and try it again",
    ),
    "clock": check(
        MACHINE,
        WARNING,
        "the clock is right",
        "Kerberos allows five minutes, and Previous Versions and retention go by time",
        "set the clock, and have chrony or systemd-timesyncd keep it",
    ),
    "volatile": check(
        MACHINE,
        NOTE,
        "Samba knows its sets after a reboot",
        "a persistent shadow copy is served again after a reboot, but its client can no longer"
        " delete it",
        "'samba-rvss delete' it then; or set 'lock directory' to one that lasts",
    ),
    "kernel": check(
        MACHINE,
        ERROR,
        "the kernel can do what is needed",
        "without mount_setattr(2) of Linux 5.12 there is no closed mount",
        "use Linux 5.12 or later",
    ),
    "tools": check(
        MACHINE,
        WARNING,
        "no other snapshot tool that is configured here touches our images",
        "a tool that takes snapshots of our images, or prunes them, is in the way of deleting"
        " them, or loses backups",
        "leave .samba-rvss and POOL/samba-rvss out of it",
    ),
}
