"""Manifests: what is in a backup of a share, file by file, and whether it still is.

Place: below the instance; it knows trees of files and SQLite, and neither Samba nor providers.
"""
