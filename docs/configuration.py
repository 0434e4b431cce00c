"""Makes docs/configuration.md of the defaults in cropjax/config.py and the comments that stand there.

    python docs/configuration.py

A comment is of the fields that its statement sets, beside it or in the lines above. A sentence that begins with names
and a colon, "momentum: ..." or "betas, eps: ...", is of those fields of the group alone; so are such sentences above an
`if` or a `match`. Fields that share a comment share a row.
"""

import ast
import io
import re
import textwrap
import tokenize
from itertools import groupby
from pathlib import Path

from ml_collections import ConfigDict

from cropjax.config import NETWORKS, defaults
from cropjax.workdir import MAY_DIFFER

ROOT = Path(__file__).parents[1]
SOURCE, PAGE = ROOT / "cropjax/config.py", ROOT / "docs/configuration.md"

HEAD = """# Configuration

Every field, its default, and what it is: made of `cropjax/config.py` by `make docs`. A config file starts from
`defaults(network)` and states what it changes; networks are {networks}:

```text
from cropjax.config import defaults


def get_config():
    config = defaults("segformer")
    config.data.source = "camvid"
    config.data.crop_size = (240, 320)
    return config
```

On the command line a field is `--config.data.crop_size='(240,320)'`, and each command takes them. A field that does not
exist and a value of another type are errors, as are values that cannot work (`cropjax/validation.py` has the checks),
before anything is built or written. Sizes are (height, width) but for `data.scale`, which is (long side, short side).
The defaults are mmsegmentation's Cityscapes settings for crops of 512x1024. Where its settings are here:
[mmsegmentation.md](mmsegmentation.md).
"""
FREE = "A run belongs to its config, which its folder keeps. When it goes on, these may differ, and others may not:"

# Names and a colon, at the beginning of a comment or of a sentence or a clause in it.
SENTENCE = re.compile(r"(?:^|(?<=[.;] ))(\w+(?:, \w+)*): ")
TITLES = {
    "": "The run",
    "model": "The network",
    "loss": "The loss",
    "data": "The data",
    "optim": "The optimiser",
    "train": "Training",
    "eval": "Evaluation",
    "mesh": "Devices",
}


def fields_by_network():
    """{dotted name: {network: default}}, in the order of the source."""
    found = {}
    for network in NETWORKS:
        for name, value in _leaves(defaults(network)):
            found.setdefault(name, {})[network] = value
    return found


def _leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def descriptions(source, names):
    """{dotted name: comment} of the fields `names`, for those that have one in `defaults` of a module's `source`."""
    function = next(x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef) and x.name == "defaults")
    comments = Comments(source, names)
    comments.read(function.body)
    return {name: " ".join(dict.fromkeys(texts)) for name, texts in comments.found.items()}


class Comments:
    """What the comments of statements say of the fields that these set."""

    def __init__(self, source, names):
        self.names, self.lines, self.found = names, source.splitlines(), {}
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        self.by_line = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
        self.groups = {"config": ""}  # variables that are a group of fields: its name, with a dot at its end
        self.parts = {}  # variables that become part of a group: the comments of their statements

    def read(self, body, around=()):
        """Reads statements; `around` are the comments above what they are in."""
        for statement in body:
            above = self._above(statement)
            match statement:
                case ast.Assign():
                    lines = range(statement.lineno, statement.end_lineno + 1)
                    self._assign(statement, [above, *(self.by_line.get(line, "") for line in lines)], around)
                case ast.If():
                    self.read(statement.body + statement.orelse, (*around, above))
                case ast.Match():
                    for case in statement.cases:
                        self.read(case.body, (*around, above))

    def _above(self, statement):
        first = statement.lineno
        while self.lines[first - 2].lstrip().startswith("#"):
            first -= 1
        return " ".join(self.by_line[line] for line in range(first, statement.lineno))

    def _assign(self, statement, own, around):
        own += [text for x in ast.walk(statement.value) if isinstance(x, ast.Name) for text in self.parts.get(x.id, ())]
        targets = [x for t in statement.targets for x in (t.elts if isinstance(t, ast.Tuple) else [t])]
        places = [self._place(target) for target in targets if isinstance(target, ast.Attribute)]
        for target in targets:
            if isinstance(target, ast.Name) and places:
                self.groups[target.id] = f"{places[0]}."
            elif isinstance(target, ast.Name):
                self.parts[target.id] = own
        for place in places:
            for text in own:
                self._read_comment(place, text)
            for text in around:
                self._read_comment(place, text, whole=False)

    def _place(self, target):
        """The dotted name of the field or the group that `target` is."""
        if isinstance(target.value, ast.Name):
            return self.groups[target.value.id] + target.attr
        return f"{self._place(target.value)}.{target.attr}"

    def _read_comment(self, place, text, whole=True):
        """Notes what `text` says of the fields at `place`: its sentences on certain ones, and if `whole` the rest."""
        group = place.rpartition(".")[0] if place in self.names else place
        prefix = f"{group}." if group else ""
        starts = [m for m in SENTENCE.finditer(text) if all(prefix + key in self.names for key in m[1].split(", "))]
        ends = [*(m.start() for m in starts), len(text)]
        if whole and (rest := text[: ends[0]].strip()):
            for name in self.names:
                if name == place or name.startswith(f"{place}."):
                    self._note(name, rest)
        for m, end in zip(starts, ends[1:], strict=True):
            for key in m[1].split(", "):
                self._note(prefix + key, text[m.end() : end].strip())

    def _note(self, name, text):
        self.found.setdefault(name, []).append(text)


def rows():
    """[(names, defaults as shown, description)]: neighbours that share a description are one row."""
    fields = fields_by_network()
    told = descriptions(SOURCE.read_text(encoding="utf-8"), list(fields))
    if missing := [name for name in fields if name not in told]:
        raise SystemExit(f"cropjax/config.py: no comment says what these are: {', '.join(missing)}")
    groups = list(dict.fromkeys(name.rpartition(".")[0] for name in told))
    ordered = sorted(told, key=lambda name: groups.index(name.rpartition(".")[0]))
    for (_, text), names in groupby(ordered, key=lambda name: (name.rpartition(".")[0], told[name])):
        names = list(names)
        yield names, [_shown(fields[name]) for name in names], text


def _shown(values):
    """{network: default} as text, with the networks where they differ or are not all."""
    by_value = {}
    for network, value in values.items():
        by_value.setdefault(repr(value), []).append(network)
    if len(values) == len(NETWORKS) and len(by_value) == 1:
        return f"`{next(iter(by_value))}`"
    return ", ".join(f"`{value}` ({', '.join(networks)})" for value, networks in by_value.items())


def page():
    """The text of docs/configuration.md."""
    networks = ", ".join(f'`"{name}"`' for name in NETWORKS)
    free = textwrap.fill(f"{FREE} {', '.join(f'`{name}`' for name in MAY_DIFFER)}.", 120, break_on_hyphens=False)
    lines = [HEAD.format(networks=networks), free]
    for group, found in groupby(rows(), key=lambda row: row[0][0].rpartition(".")[0].partition(".")[0]):
        lines += ["", f"## {TITLES[group]}", "", "| field | default | |", "|---|---|---|"]
        for names, values, text in found:
            cells = "<br>".join(f"`{name}`" for name in names), "<br>".join(values), _sentence(text)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sentence(text):
    text = text[0].upper() + text[1:].replace("<", "\\<")
    return text if text.endswith((".", ".)")) else f"{text}."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
