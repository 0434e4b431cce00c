"""What was mapped, as a file in the style of those under `configs/`, and as lines for a terminal."""

import os
import runpy
import textwrap

from ml_collections import ConfigDict

from cropjax.config import defaults, set_optimizer
from cropjax.errors import UserError
from cropjax.mmseg.theirs import plain, shown
from cropjax.models import mit, mscan
from cropjax.validation import validate

TITLES = {"pspnet": "PSPNet", "deeplabv3plus": "DeepLabV3+", "segformer": "SegFormer", "segnext": "SegNeXt"}
SIZES = {"segformer": ("mit", mit.SIZES), "segnext": ("mscan", mscan.SIZES)}
WIDTH = 120


def report(mapped):
    """Lines that say what became of each of their settings."""
    yield "mapped, theirs -> ours:"
    yield from (
        f"  {plain(name)} = {shown(given)} -> {ours} = {shown(value)}" for name, given, ours, value in mapped.moved
    )
    for title, names in (("always so here", mapped.same), ("of no meaning here", mapped.idle)):
        yield from _wrapped(f"{title}: {', '.join(map(plain, names)) or 'nothing'}", "  ")
    yield from _not_mapped(mapped)


def write_config(mapped, path, out):
    """Writes the new config file `out`, all or nothing; UserError if what is in it cannot be run. `path` is theirs."""
    temporary = out.with_name(f"{out.name}.tmp")
    try:
        temporary.write_text(config_text(mapped, path, out), encoding="utf-8")
        try:
            validate(runpy.run_path(str(temporary))["get_config"]())
        except UserError as error:
            raise UserError(f"{path} asks for what cannot be run here: {error}") from None
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): name another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def config_text(mapped, path, out):
    """The text of that file: the fields that differ from our defaults, under a docstring that says the rest."""
    network = mapped.config.model.name
    imports, body = _body(mapped.config, network, [ours for *_, ours, _ in mapped.moved])
    if mapped.weights:
        at = next(i for i, line in enumerate(body) if line.startswith("config.init_from"))
        body.insert(at, f"# {plain(mapped.weights)}"[: WIDTH - 4])
    head = [
        f"{TITLES[network]}, from mmsegmentation's {plain(path.name)}.",
        "",
        f"    python -m cropjax.main --config {plain(str(out))}",
        "",
        *_not_mapped(mapped),
        *_wrapped(f"Mapped: {', '.join(_gathered(name for name, *_ in mapped.moved))}.", "  "),
    ]
    docstring = "\n".join(head).replace("\\", r"\\").replace('"""', r"\"\"\"")
    lines = [*imports, "", "", "def get_config():", *(f"    {line}" for line in body), "    return config"]
    return "\n".join([f'"""{docstring}', '"""', "", *lines, ""])


def _not_mapped(mapped):
    yield "Not mapped:" if mapped.left else "Not mapped: nothing."
    for name, given, why in mapped.left:
        yield from _wrapped(f"  {plain(name)} = {shown(given)}: {why}", "    ")


def _gathered(names):
    """`a.b.c`, `a.b.d` as `a.b.{c, d}`, in order."""
    groups = {}
    for name in dict.fromkeys(map(plain, names)):
        outer, _, last = name.rpartition(".")
        groups.setdefault(outer, []).append(last)
    for outer, last in groups.items():
        yield f"{outer}.{{{', '.join(last)}}}" if len(last) > 1 else f"{outer}.{last[0]}".lstrip(".")


def _wrapped(text, indent):
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _body(config, network, order):
    """Import lines, and those that make `config` of our defaults, with the fields in `order`."""
    imports, body = ["from cropjax.config import defaults"], [f'config = defaults("{network}")']
    base, optimizer = defaults(network), config.optim.name
    if base.optim.name != optimizer:
        imports[0] += ", set_optimizer"
        body.append(f'set_optimizer(config, "{optimizer}")')
        set_optimizer(base, optimizer)
    module, sizes = SIZES.get(network, ("", {}))
    for name, size in sizes.items():
        differs = any(base.model.backbone[field] != value for field, value in size.items())
        if differs and all(config.model.backbone[field] == value for field, value in size.items()):
            imports.append(f"from cropjax.models import {module}")
            body.append(f'config.model.backbone.update({module}.SIZES["{name}"])')
            base.model.backbone.update(size)
    base, place = _groups(base), {f"config.{field}": i for i, field in enumerate(order)}
    for group, fields in _groups(config, place).items():
        body += _assignments(group, {name: value for name, value in fields.items() if base[group][name] != value})
    return imports, body


def _groups(config, place=()):
    """{"config.model.head": its fields that are no groups themselves}, those that have a `place` first and by it."""
    found = {}

    def walk(group, name):
        for key, value in group.items():
            if isinstance(value, ConfigDict):
                walk(value, f"{name}.{key}")
            else:
                found[f"{name}.{key}"] = value

    walk(config, "config")
    groups = {}
    for name in sorted(found, key=lambda name: place[name] if name in place else len(place)):
        group, _, field = name.rpartition(".")
        groups.setdefault(group, {})[field] = found[name]
    return groups


def _assignments(group, fields):
    together = f"{group}.update({', '.join(f'{name}={_literal(value)}' for name, value in fields.items())})"
    if group != "config" and len(fields) > 1 and len(together) <= WIDTH - 8:
        return [together]
    return [f"{group}.{name} = {_literal(value)}" for name, value in fields.items()]


def _literal(value):
    """As a formatter would leave it."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, str) and value.isprintable() and not set(value) & set("'\"\\"):
        return f'"{value}"'
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:_}"
    return repr(value)
