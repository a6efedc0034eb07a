"""The values that everything else speaks of. Nothing here acts."""

from samba_rvss.model.advice import Advice
from samba_rvss.model.copies import (
    ENDED,
    UNKNOWN,
    Event,
    Moment,
    Phase,
    ShadowCopy,
)
from samba_rvss.model.exposing import Branch, Exposed
from samba_rvss.model.images import (
    NOBODY,
    NOTHING,
    Foreign,
    Identity,
    Image,
    Inventory,
    Mark,
    Sealed,
    Taken,
    Whose,
)
from samba_rvss.model.keeping import (
    Consistency,
    Hold,
    Keep,
    Kept,
    Run,
    strongest,
)
from samba_rvss.model.samba import (
    Context,
    SambaCopy,
    SambaSet,
    SambaState,
    SetState,
    Worker,
)
from samba_rvss.model.shares import (
    Instant,
    Nested,
    Share,
    Volume,
    Writers,
)

__all__ = [
    "ENDED",
    "NOBODY",
    "NOTHING",
    "UNKNOWN",
    "Advice",
    "Branch",
    "Consistency",
    "Context",
    "Event",
    "Exposed",
    "Foreign",
    "Hold",
    "Identity",
    "Image",
    "Instant",
    "Inventory",
    "Keep",
    "Kept",
    "Mark",
    "Moment",
    "Nested",
    "Phase",
    "Run",
    "SambaCopy",
    "SambaSet",
    "SambaState",
    "Sealed",
    "SetState",
    "ShadowCopy",
    "Share",
    "Taken",
    "Volume",
    "Whose",
    "Worker",
    "Writers",
    "strongest",
]
