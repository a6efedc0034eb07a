"""The ledger: every shadow copy, its phase and its events, in SQLite.

A change is on disk when its method returns. There is one writer at a time, who holds the
instance's lock; commands read the file while it writes, or while there is none. Losing the file
loses nothing: images bear their marks, and a daemon that still has the lost file open writes it
anew.
"""

from samba_rvss.ledger.ledger import Ledger

__all__ = ["Ledger"]
