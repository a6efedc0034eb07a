"""What was found of a tree's virtual disks, as it is sent, recorded and shown."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from samba_rvss.hyperv.chains import Parent
from samba_rvss.hyperv.disk import State
from samba_rvss.hyperv.survey import Survey

LARGEST = 1 << 16
"""Bytes of the largest message."""

MOST = 1 << 20
"""Bytes of all messages."""

_LONGEST = 4096  # of a text; a path is not longer
_STATES = {
    State.WHOLE: "whole",
    State.LOG: "with a log to replay",
    State.DAMAGED: "damaged",
    State.UNKNOWN: "not read",
}
_PARENTS = {
    Parent.CHANGED: "with a parent that has changed",
    Parent.MISSING: "without their parent",
    Parent.ENDLESS: "that are their own ancestor",
    Parent.TOO_LONG: "in too long a chain",
}


_GOOD = (Parent.NONE, Parent.PRESENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found of one disk.

    Attributes:
        path: from the tree's directory; bytes that are not UTF-8 are surrogates.
        state: what its structures say.
        why: what is damaged or unknown, as a sentence's end.
        size: what its guest sees, in bytes; 0 if that is not known.
        parent: what was found of the chain that it hangs on.
    """

    path: str
    state: State
    why: str
    size: int
    parent: Parent

    @property
    def is_good(self) -> bool:
        """Whether it can be used as it is, or after its log was replayed."""
        return self.state in (State.WHOLE, State.LOG) and self.parent in _GOOD

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "path": self.path,
            "state": self.state.value,
            "why": self.why,
            "size": self.size,
            "parent": self.parent.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found of all disks.

    Attributes:
        disks: each.
        machines: how many virtual machines there seem to be.
        left_out: why not all was looked at, as a sentence's end; empty if all was.
    """

    disks: tuple[Seen, ...]
    machines: int = 0
    left_out: str = ""

    def words(self) -> str:
        """Return it in words: ``3 disks: 2 whole, 1 with a log to replay``."""
        states = Counter(disk.state for disk in self.disks)
        parents = Counter(disk.parent for disk in self.disks)
        told = [f"{states[each]} {what}" for each, what in _STATES.items() if states[each]]
        told += [f"{parents[each]} {what}" for each, what in _PARENTS.items() if parents[each]]
        count = f"{len(self.disks)} disk{'s' * (len(self.disks) != 1)}"
        found = f"{count}: {', '.join(told)}" if told else count
        return f"{found}; not all was looked at: {self.left_out}" if self.left_out else found

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "disks": [disk.as_data() for disk in self.disks],
            "machines": self.machines,
            "left_out": self.left_out,
        }


def messages(found: Survey) -> Iterator[bytes]:
    """Yield what is sent of a survey: a message for each disk, and one at the end."""
    left = MOST - LARGEST
    left_out = found.left_out
    for each in found.disks:
        seen = Seen(
            path=each.path.decode("utf-8", "surrogateescape"),
            state=each.disk.state,
            why=each.disk.why,
            size=each.disk.size,
            parent=each.parent,
        )
        message = json.dumps(seen.as_data()).encode()
        left -= len(message)
        if left < 0:
            left_out = left_out or "the names of the disks are too long"
            break
        yield message
    report = Report(disks=(), machines=len(found.machines), left_out=left_out)
    yield json.dumps(report.as_data()).encode()


def received(parts: Sequence[bytes]) -> Report:
    """Return what was sent.

    Args:
        parts: the messages, from a process that has read what anybody may have written.

    Raises:
        ValueError: they are no such ones.
    """
    found = parse(json.loads(parts[-1])) if parts else Report(disks=())
    disks = tuple(_disk(json.loads(part)) for part in parts[:-1])
    return Report(disks=disks, machines=found.machines, left_out=found.left_out)


def parse(data: Any) -> Report:
    """Return what `Report.as_data` returned once.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(data, dict) or not isinstance(data.get("disks"), list):
        raise ValueError("it is no report on disks")
    return Report(
        disks=tuple(map(_disk, data["disks"])),
        machines=_number(data.get("machines")),
        left_out=_text(data.get("left_out")),
    )


def _disk(data: Any) -> Seen:
    if not isinstance(data, dict):
        raise ValueError("it is no disk")
    return Seen(
        path=_text(data.get("path")),
        state=State(data.get("state")),
        why=_text(data.get("why")),
        size=_number(data.get("size")),
        parent=Parent(data.get("parent")),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError("a text is wanted")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError("a number is wanted")
    return value
