"""Makes docs/api.md of the docstrings of what one uses from Python.

    python docs/api.py

The sources are read and not imported. Of a class come its public methods and properties that have a docstring.
"""

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/api.md"

HEAD = """# From Python

What one uses from Python, by its docstrings: made by `make docs`. Everything else may change without notice, these may
too before version 1, and [CHANGELOG.md](../CHANGELOG.md) says when. Arrays are [n,h,w,c]; sizes are (height, width);
images are uint8 RGB, labels uint8 train ids with 255 for what does not count. The commands are in the pages that
[README.md](../README.md#documentation) lists.
"""

SECTIONS = ("Args", "Returns", "Raises")
# Headings, a sentence each, and (module, names).
GROUPS = [
    (
        "A trained network",
        "`cropjax.load` is `cropjax.network.load`. More in [predict.md](predict.md).",
        [("network", ["load", "Network", "as_rgb"])],
    ),
    (
        "Configuration",
        "Names become objects in `cropjax/config.py` alone. Fields: [configuration.md](configuration.md).",
        [
            (
                "config",
                [
                    "defaults",
                    "set_optimizer",
                    "label_set",
                    "build_model",
                    "build_objective",
                    "build_optimizer",
                    "build_source",
                    "build_augment",
                    "build_batches",
                ],
            ),
            ("validation", ["validate"]),
            ("workdir", ["run_config"]),
        ],
    ),
    (
        "Networks and weights",
        "A network is a structure and a tree of arrays. Files: [weights.md](weights.md).",
        [
            ("models/segmentor", ["Segmentor", "Output"]),
            ("step", ["split_model", "merge_model", "make_train_step"]),
            ("weights", ["read_weights"]),
            ("convert", ["load_torch_state"]),
        ],
    ),
    (
        "Data",
        "A source of your own: [tutorial.md](tutorial.md#a-source-of-your-own).",
        [
            ("data/pipeline", ["Source", "train_batches", "eval_batches"]),
            ("data/labels", ["LabelSet"]),
            ("data/streets", ["Streets"]),
            ("data/transforms", ["augment"]),
        ],
    ),
    (
        "At test",
        "What `cropjax.load` is made of; [pixel.md](pixel.md) follows a pixel through it.",
        [
            ("inference", ["Inference"]),
            ("windows", ["Windows"]),
            ("metrics", ["confusion_matrix", "Scores"]),
            ("evaluation/details", ["Details"]),
        ],
    ),
    (
        "Losses",
        "[losses.md](losses.md) has the fields.",
        [
            ("losses/objective", ["Objective"]),
            ("losses/cross_entropy", ["cross_entropy"]),
            ("losses/focal", ["focal"]),
            ("losses/dice", ["dice"]),
            ("losses/lovasz", ["lovasz_softmax"]),
            ("losses/ohem", ["hard_pixels"]),
        ],
    ),
    (
        "Instruments",
        "They take any function of weights and images: [instruments.md](instruments.md).",
        [
            ("instruments/receptive_field", ["receptive_fields", "Field"]),
            ("instruments/effective_field", ["gradient_mass", "effective_field", "EffectiveField"]),
            ("instruments/valid_taps", ["valid_taps", "ValidTaps", "dilated_convolutions"]),
            ("instruments/gridding", ["stack"]),
            ("instruments/pooling", ["cells", "shift"]),
            ("instruments/normalization", ["noise", "pooled_norm"]),
            ("instruments/gradient_noise", ["noise_scale"]),
            ("instruments/consistency", ["agreement", "Agreement"]),
            ("instruments/advice", ["keeping_rate", "keeping_scale", "confounds"]),
        ],
    ),
    ("Errors", "A command prints them in a line and ends with status 2.", [("errors", ["UserError"])]),
]


def page():
    """The text of docs/api.md."""
    lines = [HEAD]
    for title, about, modules in GROUPS:
        lines += [f"## {title}", "", about, ""]
        for module, names in modules:
            path = ROOT / f"cropjax/{module}.py"
            defined = {x.name: x for x in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(x, "name")}
            for name in names:
                lines += _entry(f"cropjax.{module.replace('/', '.')}", defined[name])
    return "\n".join(lines).rstrip() + "\n"


def _entry(module, node):
    lines = [f"### `{module}.{node.name}`", "", *_signature(node), *_text(_docstring(node, module)), ""]
    for member in _methods(node):
        lines += [f"#### `{node.name}.{member.name}`", "", *_signature(member), *_text(_docstring(member)), ""]
    return lines


def _methods(node):
    """The public methods and properties of a class that say what they are; nothing of a function."""
    for member in node.body if isinstance(node, ast.ClassDef) else []:
        public = isinstance(member, ast.FunctionDef) and (member.name == "__call__" or member.name[0] != "_")
        if public and ast.get_docstring(member):
            yield member


def _docstring(node, module=""):
    if not (text := ast.get_docstring(node)):
        raise SystemExit(f"{module}.{node.name} has no docstring")
    return text


def _signature(node):
    """What to write to use `node`, as a block of code; nothing for a property."""
    decorators = [ast.unparse(x) for x in node.decorator_list]
    if "property" in decorators:
        return []
    if isinstance(node, ast.ClassDef):
        made = next((x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"), None)
        if made is None and not any("dataclass" in x for x in decorators):
            return []
        arguments = _arguments(made.args) if made else ", ".join(_fields(node))
        return _code(f"{node.name}({arguments})")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return _code(f"{node.name}({_arguments(node.args)}){returns}")


def _arguments(arguments):
    return re.sub(r"^(self|cls)(, |$)", "", ast.unparse(arguments))


def _fields(node):
    """The arguments of a dataclass."""
    for x in node.body:
        if isinstance(x, ast.AnnAssign) and "init=False" not in (ast.unparse(x.value) if x.value else ""):
            yield f"{x.target.id}: {ast.unparse(x.annotation)}" + (" = ..." if x.value else "")


def _code(text):
    name, _, rest = text.partition("(")
    lines = textwrap.wrap(text, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return ["```text", *(lines if rest else [f"{name}()"]), "```", ""]


def _text(docstring):
    """Markdown of a docstring: what is indented becomes a block of code, what is below Args and the like a list."""
    lines = []
    for part in docstring.split("\n\n"):
        heading, _, rest = part.partition(":\n")
        if heading in SECTIONS:
            entries = re.split(r"\n(?=\S)", textwrap.dedent(rest))
            lines += [f"{heading}:", "", *(f"* {' '.join(entry.split())}" for entry in entries), ""]
        elif part.startswith("    "):
            lines += ["```text", *textwrap.dedent(part).splitlines(), "```", ""]
        else:
            lines += [" ".join(part.split()), ""]
    return lines[:-1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
