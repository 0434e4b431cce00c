"""What an instrument reports, before it is a page, a table or a text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """`rows` under `columns`; cells are numbers, text, or None where there is nothing to say. `name` is its file's."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple, ...]


@dataclass(frozen=True)
class Section:
    """`words` are paragraphs, a blank line between two; `figure` is an SVG (see figure.py), `caption` says what of."""

    title: str
    words: str
    tables: tuple[Table, ...] = ()
    figure: str = ""
    caption: str = ""


def hxw(size):
    """A size as it is written, height x width: 512x1024."""
    return f"{size[0]}x{size[1]}"
