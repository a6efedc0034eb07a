"""What an administrator should mend: in one sentence, or its parts apart."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Something that is not as it should be.

    Attributes:
        check: the name of the check of ``samba-rvss doctor`` that it belongs to.
        what: what is wrong, without a full stop; of a share, it goes on after the share's name.
        why: why that matters; empty if ``what`` says it, or the check does.
        write: what to write or to do.
        share: the share that it is about; empty if it is about none alone.
    """

    check: str
    what: str
    why: str = ""
    write: str = ""
    share: str = ""

    def line(self) -> str:
        """Return all of it as one sentence."""
        reasons = "; ".join(filter(None, (self.why, self.write)))
        what = f"[{self.share}] {self.what}" if self.share else self.what
        return f"{what}: {reasons}" if reasons else what
