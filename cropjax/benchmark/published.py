"""Which of the published networks a config is: rivals build theirs by upstream's name of a size."""

from cropjax.config import defaults, label_set
from cropjax.errors import UserError
from cropjax.models import mit, mscan

CLASSES = 19
# What each size changes in our defaults, which are ResNet-50, MiT-B3 and MSCAN-B.
R18 = {"backbone": {"depth": 18}, "head": {"channels": 128}, "auxiliary": {"channels": 64}}
RESNETS = {"r50": {}, "r18": R18, "r101": {"backbone": {"depth": 101}}}
HEADS = {"t": 256, "s": 256, "b": 512, "l": 1024}
SIZES = {
    "pspnet": RESNETS,
    "deeplabv3plus": RESNETS | {"r18": R18 | {"head": {"channels": 128, "skip_channels": 12}}},
    "segformer": {name: {"backbone": size} for name, size in mit.SIZES.items()},
    "segnext": {name: {"backbone": size, "head": {"channels": HEADS[name]}} for name, size in mscan.SIZES.items()},
}


def published_size(config):
    """Upstream's name of the configured network's size: "r50", "b3", "b", ...

    Raises:
        UserError: the network is none of upstream's; the line names what differs from the nearest one.
    """
    name, classes = config.model.name, label_set(config).num_classes
    if classes != CLASSES:
        raise UserError(f"--against: data.source = {config.data.source!r} has {classes} classes, rivals have {CLASSES}")
    differing = {size: _differing(config, name, changes) for size, changes in SIZES[name].items()}
    nearest = min(differing, key=lambda size: len(differing[size]))
    if differing[nearest]:
        raise UserError(
            f"--against: the network is none of those published ({', '.join(SIZES[name])}), which rivals build: from "
            f"{nearest} it differs in {', '.join(differing[nearest])}"
        )
    return nearest


def _differing(config, name, changes):
    """Dotted names of the fields in which `config` is not the published network with these changes."""
    wanted = defaults(name)
    for part, values in changes.items():
        wanted.model[part].update(values)
    wanted.model.align_corners = config.model.align_corners  # both are published
    found = []
    for field in ("model", "loss"):
        ours, theirs = _flat(config[field], f"{field}."), _flat(wanted[field], f"{field}.")
        found += [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    return found


def _flat(fields, prefix):
    flat = {}
    for key, value in fields.items():
        flat |= _flat(value, f"{prefix}{key}.") if hasattr(value, "items") else {f"{prefix}{key}": value}
    return flat
