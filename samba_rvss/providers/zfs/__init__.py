"""The provider for ZFS."""
