"""The provider for btrfs."""
