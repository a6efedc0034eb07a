"""OpenMetrics text: gauges as values, and how they are written.

Contract: whatever labels' values held, and also if two are the same as written, the text is valid
OpenMetrics 1.0, and valid in the older text format of Prometheus too, which node_exporter's
textfile collector reads (expfmt.TextParser): that has only gauges, counters and the like, takes no
time beside a sample, and takes what begins with ``# UNIT`` or ``# EOF`` for a comment.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from samba_rvss.text import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """What is measured now, and may go up and down.

    Attributes:
        name: ends with the unit, if there is one.
        help: what it is, in a sentence without quotes and backslashes.
        unit: such as ``seconds``; empty if it has none.
        samples: values, each with its labels; there may be none.
        together: what several values are whose labels are written alike: a reader refuses all
            that there is if a sample comes twice.
    """

    name: str
    help: str
    unit: str = ""
    samples: tuple[tuple[Mapping[str, str], float], ...] = ()
    together: Callable[[Iterable[float]], float] = sum


def render(gauges: Iterable[Gauge], common: Mapping[str, str]) -> str:
    """Return gauges as text, to its end.

    Args:
        gauges: each name once.
        common: labels that each sample has, before its own.
    """
    return "".join(f"{line}\n" for gauge in gauges for line in _lines(gauge, common)) + "# EOF\n"


def _lines(gauge: Gauge, common: Mapping[str, str]) -> Iterator[str]:
    yield f"# TYPE {gauge.name} gauge"
    if gauge.unit:
        yield f"# UNIT {gauge.name} {gauge.unit}"
    yield f"# HELP {gauge.name} {gauge.help}"
    values: dict[str, list[float]] = {}
    for labels, value in gauge.samples:
        told = ",".join(f'{name}="{_escaped(text)}"' for name, text in {**common, **labels}.items())
        values.setdefault(told, []).append(value)
    for told, found in values.items():
        value = found[0] if len(found) == 1 else gauge.together(found)
        yield f"{gauge.name}{{{told}}} {value!r}"


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
