"""The checks of ``samba-rvss doctor`` that are about shares and users, by name."""

from collections.abc import Mapping

from samba_rvss.cli.doctor.check import SHARES, USERS, Check, Severity, check

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

OF_SHARES: Mapping[str, Check] = {
    "ours": check(
        SHARES,
        ERROR,
        "some share calls the hook",
        "no share has shadow copies",
        "see what 'samba-rvss setup SHARE' prints, and have it written with --apply",
    ),
    "callouts": check(
        SHARES,
        ERROR,
        "the callouts of shell_snap are those of this instance",
        "Samba asks somebody else, or nobody, for this share's shadow copies",
        "see what 'samba-rvss setup SHARE' prints, and have it written with --apply",
    ),
    "hook": check(
        SHARES,
        ERROR,
        "every user can run the hook and reach its socket, and root alone can change it",
        "Samba runs the hook as the client's user",
        "install samba-rvss anew",
    ),
    "shadowed": check(
        SHARES,
        ERROR,
        "no module takes shadow copies before shell_snap does",
        "nobody seals what that module takes",
        "put shell_snap first in 'vfs objects'",
    ),
    "modules": check(
        SHARES,
        WARNING,
        "no share lacks a module of [global]",
        "a share's own 'vfs objects' replaces that of [global]",
        "name those modules too",
    ),
    "options": check(
        SHARES,
        ERROR,
        "every option of samba-rvss in smb.conf is one, and its value means something",
        "a share with a wrong option has no shadow copies",
        "correct it, or take it out",
    ),
    "expose": check(
        SHARES,
        ERROR,
        "Samba can expose what stands in each share's section",
        "Expose fails when the shadow copy has been taken, and its set is in the way of all others",
        "correct what is named",
    ),
    "names": check(
        SHARES,
        ERROR,
        "Samba can carry every share's name and path",
        "Samba's callout and its registry have no way to say them",
        "rename the share, or its directory",
    ),
    "path": check(
        SHARES,
        ERROR,
        "each share's path is a directory, without links",
        "a shadow copy is taken of the directory itself",
        "correct the share's 'path'",
    ),
    "file-system": check(
        SHARES,
        ERROR,
        "each share is on a btrfs or ZFS that can take shadow copies",
        "only those can take one at once",
        "move the share to a btrfs or ZFS",
    ),
    "nested": check(
        SHARES,
        ERROR,
        "no volume nested in a share is left out",
        "it would be empty in a shadow copy, without a word",
        "set 'rvss:nested = include' in the share, or move it away",
    ),
    "mounts": check(
        SHARES,
        ERROR,
        "no share is on an id-mapped mount, or has other file systems in it",
        "files would be missing in a shadow copy, or have other owners",
        "mount it elsewhere, and without X-mount.idmap",
    ),
    "top-level": check(
        SHARES,
        WARNING,
        "nobody but root may write to the top of a btrfs",
        "samba-rvss keeps its images in /.samba-rvss there: whoever makes something of that name"
        " first keeps all shares of the file system from having shadow copies",
        "share a subvolume of it instead, or chmod go-w the directory",
    ),
    "writers": check(
        SHARES,
        WARNING,
        "it is known who may recover each share's shadow copies",
        "what nobody may recover is no better than a copy of a running disk",
        "name those who may in 'write list'",
    ),
    "previous-versions": check(
        SHARES,
        WARNING,
        "shares that show Previous Versions look where they are",
        "nobody sees them",
        "write 'rvss:previous versions = yes' into the share, or take 'shadow:snapdir' out",
    ),
    "twins": check(
        SHARES,
        NOTE,
        "shares of one directory ask for the same",
        "a callout names the directory and not the share: a copy of one is a copy of all",
        "give all of them the same 'rvss:' options",
    ),
    "space": check(
        SHARES,
        WARNING,
        "there is room for more shadow copies",
        "below 'rvss:minimum free', and above 'rvss:maximum copies', clients are refused",
        "free some space, or delete what 'samba-rvss list' shows and nobody needs",
    ),
    "operators": check(
        USERS,
        ERROR,
        "somebody may take shadow copies",
        "Samba serves members of Backup Operators and Administrators, those who have"
        " SeBackupPrivilege, and root; all others get 0x80070005",
        "net sam rights grant USER SeBackupPrivilege",
    ),
    "idmap": check(
        USERS,
        ERROR,
        "winbindd may give ids to groups in BUILTIN, or there is no domain",
        "BUILTIN\\Backup Operators cannot be made without one, and logons fail",
        "write 'idmap config * : backend = tdb' and 'idmap config * : range = 100000-199999' into"
        " [global], restart winbind.service, and run 'net cache flush'",
    ),
    "logons": check(
        USERS,
        ERROR,
        "the system knows the domain's users, or there is no domain",
        "Samba refuses to log on whom the system does not know (NT_STATUS_LOGON_FAILURE)",
        "install libnss-winbind, and add 'winbind' to passwd and group in /etc/nsswitch.conf",
    ),
    "computers": check(
        USERS,
        NOTE,
        "computer accounts may take shadow copies, or there is no domain",
        "Hyper-V and SQL Server come as the account of their computer, DOM\\HOST$",
        "net sam addmem 'BUILTIN\\Backup Operators' 'DOM\\Hyper-V Hosts'",
    ),
    "access": check(
        USERS,
        WARNING,
        "those who may take shadow copies may connect to the shares",
        "IsPathSupported answers 0x80070005 to whom 'valid users' keeps out, and whom only the"
        " directory does can read nothing",
        "add the backup program's user to the share's 'valid users'",
    ),
    "shells": check(
        USERS,
        NOTE,
        "no Backup Operator can trace Samba's callouts",
        "a callout runs as the client's user: who may trace it can have it ask for another share",
        "sysctl kernel.yama.ptrace_scope=1, or give the user the shell /usr/sbin/nologin",
    ),
}
