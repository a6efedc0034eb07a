#!/bin/sh
# Set the test machine up as an administrator would: file systems, Samba, and samba-rvss, whose package
# is the argument. For `disks`.
set -eux

# A root file system that survives a power loss, from the next mount on.
tune2fs -O has_journal /dev/vda

# The share's file systems, mounted by the machine itself at each start.
mkfs.btrfs -q /dev/vdd
mkdir -p /srv/btrfs
echo '/dev/vdd /srv/btrfs btrfs defaults 0 0' >>/etc/fstab
systemctl daemon-reload
mount /srv/btrfs
btrfs subvolume create /srv/btrfs/volume
zpool create -m /srv/zfs -O acltype=posixacl -O xattr=sa tank /dev/vde
zfs create tank/volume

useradd --no-create-home --shell /usr/sbin/nologin requestor
for system in btrfs zfs; do
    mkdir "/srv/$system/volume/share"
    chown requestor "/srv/$system/volume/share"
done
cat >/etc/samba/smb.conf <<'END'
[global]
    server role = standalone server
    interfaces = 127.0.0.1/8
    bind interfaces only = yes
    disable netbios = yes
    load printers = no
END
for system in btrfs zfs; do
    cat >>/etc/samba/smb.conf <<END

[$system]
    path = /srv/$system/volume/share
    read only = no
END
done
printf 'secret\nsecret\n' | smbpasswd -s -a requestor
systemctl unmask smbd.service
systemctl enable --now smbd.service
python3 tests/vm/administrator.py install "$1"

# From here on it is the test's. Another share on each file system: its copies are of one instant with
# the first one's.
btrfs subvolume create /srv/btrfs/log
zfs create tank/log
for system in btrfs zfs; do
    mkdir "/srv/$system/log/share"
    chown requestor "/srv/$system/log/share"
    printf '\n[%s-log]\n    path = /srv/%s/log/share\n    read only = no\n' "$system" "$system" \
        >>/etc/samba/smb.conf
    samba-rvss setup "$system-log" --apply
done
# What is unaccounted for goes soon: a test waits for it. A Commit and its Expose take less.
sed -i -e 's/^\[global\]$/&\n    rvss:grace = 15 s/' \
    -e 's/^\[\(btrfs\|zfs\)\]$/&\n    rvss:retention = latest 1/' /etc/samba/smb.conf
testparm -s /etc/samba/smb.conf
# A boot of an emulated processor takes minutes, most of them for
# devices and mounts that nobody here needs, and its job ends with a reboot, not with a power-off.
units=/etc/systemd/system
drop_in() {
    mkdir -p "$units/$1.d"
    cat >"$units/$1.d/test.conf"
}
drop_in job.service <<'END'
[Unit]
SuccessAction=reboot
FailureAction=reboot
END
drop_in systemd-udev-settle.service <<'END'
[Service]
ExecStart=
ExecStart=/bin/true
END
drop_in systemd-udev-trigger.service <<'END'
[Service]
ExecStart=
ExecStart=udevadm trigger --action=add --subsystem-match=block --subsystem-match=virtio-ports
END
for unit in systemd-logind.service systemd-hostnamed.socket systemd-binfmt.service \
    systemd-random-seed.service systemd-udev-load-credentials.service modprobe@.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    proc-sys-fs-binfmt_misc.automount systemd-pstore.service ifupdown-pre.service \
    zfs-volume-wait.service zfs-zed.service zfs-share.service; do
    ln -sf /dev/null "$units/$unit"
done
# They tell the other side of the port when samba-rvss begins to start and when it has.
cat >"$units/begun.service" <<'END'
[Unit]
DefaultDependencies=no
After=local-fs.target zfs-mount.service
Before=samba-rvss.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo doing reconcile both >/dev/virtio-ports/job'
END
cat >"$units/done.service" <<'END'
[Unit]
DefaultDependencies=no
After=samba-rvss.service
Before=smbd.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo done reconcile both >/dev/virtio-ports/job'
END
mkdir -p "$units/samba-rvss.service.wants"
ln -s ../begun.service ../done.service "$units/samba-rvss.service.wants/"
systemctl daemon-reload
sync
