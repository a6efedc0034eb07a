"""What commands print: JSON for programs, tables for people, plain columns for pipes."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime


def print_json(value: object) -> None:
    """Print a value as JSON, with names that are not UTF-8 escaped."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Print rows: as a table on a terminal, else separated by tabs with a heading."""
    if sys.stdout.isatty():
        if not rows:
            print(empty)
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(_clean(cell)) for cell in row))
        Console().print(table)
        return
    print("\t".join(columns))
    for row in rows:
        print("\t".join(_clean(cell) for cell in row))


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, aligned."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_clean(value)}")


def print_line(text: str) -> None:
    """Print a line, whatever bytes its parts held."""
    print(_clean(text))


def local_time(time: datetime) -> str:
    """Return a time as people at this machine write it."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _clean(cell: str) -> str:
    text = cell.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
