"""The page is one file that needs no other, the CSVs are in full precision, and nothing in them breaks the page."""

import csv
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from cropjax.pages.figure import draw
from cropjax.pages.page import as_csv, as_html, as_markdown, shown, write
from cropjax.pages.section import Section, Table

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Checker(HTMLParser):
    """Every element is closed in order; collects where the page points to, and its ids."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("href", "src", "xlink:href") if name in attributes]
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def picture(axes):
    axes[0, 0].plot([1, 2, 4])
    axes[0, 1].imshow([[1, 2], [3, 4]])
    axes[0, 0].set_xlabel("<pixels> & more")


def sections():
    rows = (("a<b>", 1, 0.123456789, None), ("c|d", 2_000_000, float("nan"), True))
    table = Table("first", ("name", "count", "|share| & more", "left"), rows)
    many = Table("many", ("i",), tuple((i,) for i in range(100)))
    return [
        Section(
            "One thing",
            "Words with <tags> & 1 < 2.\n\nAnother `field.name`.",
            (table, many),
            draw(1, 2, picture),
            "A <c>",
        ),
        Section("Other", "Words."),
    ]


def test_the_page_is_whole_and_needs_nothing_else():
    page = as_html("A <title>", {"config": "x & y"}, sections())
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "script" not in page
    outside = [link for link in checker.links if not link.startswith(("#", "csv/", "data:"))]
    assert outside == []
    assert {link[1:] for link in checker.links if link.startswith("#") and not link.startswith("#m")} <= set(
        checker.ids
    )
    text = "".join(checker.text)
    for part in ("A <title>", "x & y", "Words with <tags> & 1 < 2.", "a<b>", "A <c>", "<pixels> & more"):
        assert part in text
    assert "<code>field.name</code>" in page
    assert page.count("<details open>") == 1  # the long table is folded away
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_figures_take_the_colour_of_the_page():
    svg = draw(1, 2, picture)
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "#123456" not in svg
    assert " width=" not in svg.split(">", 1)[0]


def test_csv_is_in_full_precision(tmp_path):
    table = sections()[0].tables[0]
    rows = list(csv.reader(as_csv(table).splitlines()))
    assert rows[0] == list(table.columns)
    assert float(rows[1][2]) == 0.123456789
    assert rows[1][3] == ""


def test_markdown_has_every_row():
    text = as_markdown("T", {"config": "x"}, sections())
    assert "| name | count | \\|share\\| & more | left |" in text
    assert "| c\\|d | 2000000 | - | True |" in text
    assert text.count("\n| ") == 1 + 2 + 1 + 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("x", "x"), (3, "3"), (3.0, "3"), (0.12345, "0.123"), (1234.5, "1234"), (1e-9, "1.00e-09"),
     (float("inf"), "-"), (float("nan"), "-"), (99.95, "100"), (-0.5, "-0.5")],
)  # fmt: skip
def test_cells(value, text):
    assert shown(value) == text


def test_all_files_are_written(tmp_path):
    write(tmp_path / "out", "T", {}, sections())
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == ["csv/first.csv", "csv/many.csv", "figures/one_thing.svg", "report.html", "report.md"]


def test_markdown_shows_the_figures_that_are_beside_it(tmp_path):
    write(tmp_path, "T", {}, sections())
    (place,) = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (tmp_path / "report.md").read_text())
    root = ElementTree.fromstring((tmp_path / place).read_text())
    assert root.tag.endswith("svg")
    assert "prefers-color-scheme" in root[0].text
    assert "#123456" not in (tmp_path / place).read_text()
