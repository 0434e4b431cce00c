"""The report: one HTML page that needs nothing else, the same in Markdown, every figure as SVG and table as CSV."""

import csv
import html
import io
import math
import numbers
import re
from pathlib import Path

from cropjax.pages.figure import standing_alone
from cropjax.pages.section import Section
from cropjax.workdir import write_text

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5c6675; --paper: #fdfdfc; --line: #d9dde3; --band: #f2f4f6;
  --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa4b2; --paper: #14181d; --line: #333b46;
  --band: #1d232a; --link: #7ab8f5; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.6 system-ui, sans-serif; }
main, header, nav { max-width: 56rem; margin: 0 auto; padding: 0 1.1rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { max-width: 44rem; overflow-wrap: anywhere; }
a { color: var(--link); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
nav ol { columns: 16rem; padding-left: 1.4rem; }
figure { margin: 1.4rem 0; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure > div { overflow-x: auto; }
figcaption, .file { color: var(--soft); font-size: .85rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; }
.table { overflow: auto; max-height: 28rem; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .85rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; white-space: nowrap; }
th { position: sticky; top: 0; background: var(--band); font-weight: 600; }
td.number { text-align: right; }
tr:nth-child(even) td { background: var(--band); }
@media (max-width: 40rem) { body { font-size: 16px; } figure svg { min-width: 34rem; } }
"""
OPEN_ROWS = 24  # a longer table is folded away
MARKDOWN_ROWS = 100  # and one that is longer than this is in its file alone, as nothing is folded there


def write(folder: Path, title: str, facts: dict[str, str], sections: list[Section], *, markdown="report.md"):
    """Writes report.html, a Markdown file with figures/*.svg, and csv/*.csv; `facts` are what was looked at.

    What the Markdown file names that was there, an earlier report's, is removed.
    """
    for kind in ("csv", "figures"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    if (folder / markdown).is_file():
        for name in re.findall(r"\b(?:csv|figures)/[\w.+-]+\.(?:csv|svg)\b", (folder / markdown).read_text("utf-8")):
            (folder / name).unlink(missing_ok=True)
    for section in sections:
        for table in section.tables:
            write_text(folder / "csv" / f"{table.name}.csv", as_csv(table))
        if _is_drawn(section):
            write_text(folder / _svg(section), standing_alone(section.figure))
    write_text(folder / markdown, as_markdown(title, facts, sections))
    write_text(folder / "report.html", as_html(title, facts, sections))


def as_csv(table):
    """In full precision; a cell without anything to say is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return file.getvalue()


def shown(value):
    """A cell as text: three digits of a number that is no count."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if not math.isfinite(value):
        return "-"
    if value == int(value):
        return f"{int(value)}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1000 else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2e}"


def as_markdown(title, facts, sections):
    """Words, drawn figures and tables; pictures are in the page alone."""
    lines = [f"# {title}", "", *(f"* {name}: {value}" for name, value in facts.items()), ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.words, ""]
        if _is_drawn(section):
            lines += [f"![{section.caption}]({_svg(section)})", "", section.caption, ""]
        for table in section.tables:
            lines += [f"`csv/{table.name}.csv`: {len(table.rows)} rows", ""]
            if len(table.rows) <= MARKDOWN_ROWS:
                lines += [_row(table.columns), "|---" * len(table.columns) + "|", *map(_row, table.rows), ""]
    return "\n".join(lines)


def _row(cells):
    """A line of a Markdown table."""
    return "| " + " | ".join(shown(cell).replace("|", "\\|") for cell in cells) + " |"


def as_html(title, facts, sections):
    """The page: figures and style are inside."""
    title = html.escape(title)
    about = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    contents = "".join(f'<li><a href="#{_anchor(one)}">{html.escape(one.title)}</a></li>' for one in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{title}</h1>\n<dl>{about}</dl>\n</header>\n<nav><ol>{contents}</ol></nav>\n<main>\n"
        + "\n".join(_section(one) for one in sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _is_drawn(section):
    return section.figure.startswith("<svg")


def _svg(section):
    return "figures/" + re.sub(r"[^\w.+-]+", "_", section.title.lower()) + ".svg"


def _anchor(section):
    return html.escape(section.title.lower().replace(" ", "-"))


def _section(section):
    words = "\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in section.words.split("\n\n"))
    words = re.sub("`([^`]+)`", r"<code>\1</code>", words)
    figure = ""
    if section.figure:
        caption = html.escape(section.caption)
        figure = f"<figure>\n<div>{section.figure}</div>\n<figcaption>{caption}</figcaption>\n</figure>"
    tables = "\n".join(_table(table) for table in section.tables)
    title = html.escape(section.title)
    return f'<section>\n<h2 id="{_anchor(section)}">{title}</h2>\n{words}\n{figure}\n{tables}\n</section>'


def _table(table):
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    body = "\n".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    file = html.escape(f"csv/{table.name}.csv")
    name = table.name.replace("_", " ")
    whether = " open" if len(table.rows) <= OPEN_ROWS else ""
    return (
        f"<details{whether}>\n<summary>{html.escape(name)}: {len(table.rows)} rows</summary>\n"
        f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n'
        f'<p class="file">In full precision: <a href="{file}">{file}</a></p>\n</details>'
    )


def _cell(value):
    number = isinstance(value, numbers.Number) and not isinstance(value, bool)
    return f"<td{' class=number' if number else ''}>{html.escape(shown(value))}</td>"
