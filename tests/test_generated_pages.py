"""The pages that are made of the code are as their scripts make them now."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
CONFIGURATION = runpy.run_path(str(DOCS / "configuration.py"))


@pytest.mark.parametrize("name", ["configuration", "api"])
def test_a_page_is_what_its_script_makes(name):
    script = runpy.run_path(str(DOCS / f"{name}.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run `make docs`"


SOURCE = """
def defaults(network):
    config.seed = 0  # of everything
    config.model = model = ConfigDict()
    model.name = network
    # width: of all. depth: of some; see there.
    backbone = dict(width=1, depth=2)
    # head: of both. widths, depths: of the last.
    match network:
        case "a":
            model.backbone = backbone
            model.head = dict(x=1)
        case "b":
            model.backbone = dict(widths=(), depths=())  # many
    # Those two.
    model.one, model.two = 1, (
        2,  # which is more
    )

    # rate: of both
    if network == "a":
        config.optim = dict(rate=1, other=2)
    else:
        # Nothing: no field has that name.
        config.optim.rate = 2
"""


def test_a_comment_is_of_the_fields_that_its_statement_sets():
    backbone = [f"model.backbone.{name}" for name in ("width", "depth", "widths", "depths")]
    names = ["seed", "model.name", *backbone, "model.head.x", "model.one", "model.two", "optim.rate", "optim.other"]
    assert CONFIGURATION["descriptions"](SOURCE, names) == {
        "seed": "of everything",
        "model.backbone.width": "of all. many",
        "model.backbone.depth": "of some; see there. many",
        "model.backbone.widths": "of the last. many",
        "model.backbone.depths": "of the last. many",
        "model.one": "Those two. which is more",
        "model.two": "Those two. which is more",
        "optim.rate": "of both Nothing: no field has that name.",
    }


def test_a_field_without_a_comment_is_an_error(monkeypatch):
    rows = CONFIGURATION["rows"]
    monkeypatch.setitem(rows.__globals__, "descriptions", lambda source, names: {names[0]: "something"})
    with pytest.raises(SystemExit, match=r"no comment says what these are: .*data\.crop_size"):
        list(rows())
