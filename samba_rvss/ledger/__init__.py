"""The ledger: every shadow copy, its phase and its events, in SQLite.

A change is on disk when its method returns. There is one writer at a time, who holds the
instance's lock; commands read the file whether there is a writer or not. Losing the file loses
nothing: images bear their marks, and a daemon that still has the removed file open writes it anew.
One that is damaged is set aside by its writer. Whoever makes a `Ledger` closes it.
"""

from samba_rvss.ledger.damage import aside
from samba_rvss.ledger.ledger import Ledger

__all__ = ["Ledger", "aside"]
