"""Notes what the demonstration has done and found so far: steps and expectations."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: how long it took, and what was seen."""

    name: str
    milliseconds: float
    saw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One expectation, whether it was met, and what was found."""

    name: str
    ok: bool
    found: str


@dataclass(slots=True)
class Reporter:
    """What has happened so far.

    Args:
        progress: called with a line at the end of each step and expectation.
        look: called before each step; it ends the play there by raising.

    Attributes:
        logs: those of samba-rvss and rpcd_fsrvp, if something went wrong.
    """

    progress: Callable[[str], None]
    look: Callable[[], None]
    steps: list[Step] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Time a step; its block puts what it saw into the list, nothing for success."""
        self.look()
        saw: list[str] = []
        started = time.monotonic()
        try:
            yield saw
        except BaseException as exc:
            saw.append(f"failed: {exc}")
            raise
        finally:
            self.step(name, time.monotonic() - started, ", ".join(saw))

    def step(self, name: str, seconds: float, saw: str) -> None:
        """Note a step that is over; nothing seen means success."""
        step = Step(name=name, milliseconds=seconds * 1000, saw=saw or "success")
        self.steps.append(step)
        self.progress(f"{step.milliseconds:9.1f} ms  {name}: {step.saw}")

    def expect(self, name: str, found: str, *, met: bool) -> None:
        """Note an expectation, and go on whether it was met or not."""
        self.checks.append(Check(name=name, ok=met, found=found))
        self.progress(f"{'yes' if met else 'NO':>12}  {name}: {found}")
