"""Remote VSS (MS-FSRVP) shadow copies for Samba on btrfs and ZFS."""

__version__ = "0.1.0"
