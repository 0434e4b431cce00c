"""Their losses: what a head is trained for, as `cropjax.losses` has it."""

from cropjax.mmseg.theirs import ABSENT

TERMS = {"CrossEntropyLoss": "cross_entropy", "FocalLoss": "focal", "DiceLoss": "dice", "LovaszLoss": "lovasz"}
WEIGHTED = ("CrossEntropyLoss", "FocalLoss", "LovaszLoss")  # those that have weights of the classes


def head(m, at):
    """The decode head's are `config.loss`."""
    for ours, (theirs, value) in _losses(m, at).items():
        m.put(theirs, ours, value)


def auxiliary(m, at):
    """The auxiliary head's are the same ones here, `loss.auxiliary_weight` times."""
    found = _losses(m, at)
    weights = {ours: found.pop(ours) for ours in (f"loss.terms.{name}" for name in TERMS.values())}
    ours = next((ours for ours in weights if m.get(ours)), "loss.terms.cross_entropy")
    theirs, weight = weights[ours]
    times = round(weight / (m.get(ours) or 1.0), 12)
    m.put(theirs, "loss.auxiliary_weight", times)
    for ours, (theirs, weight) in weights.items():
        if round(times * m.get(ours), 12) != weight:
            m.leave(theirs, "both heads have the same losses, this one's times loss.auxiliary_weight")
    for ours, (theirs, value) in found.items():
        if value != m.get(ours):
            m.leave(theirs, f"both heads have one {ours}")


def _losses(m, at):
    """Of the head `at`: {our field: (their setting, value)}."""
    losses = f"{at}.loss_decode"
    there = [kind for kind in TERMS if m.has(kind, losses)]
    if not there:
        if m.theirs.look(losses) is not ABSENT:
            m.leave(losses, "the loss is cross entropy all the same")
        there = ["CrossEntropyLoss"]
    found = {}
    for kind, ours in TERMS.items():
        name = f"{losses}.{kind}"
        m.take(f"{name}.loss_name")
        weight = m.take(f"{name}.loss_weight", 1.0) if kind in there else 0.0
        found[f"loss.terms.{ours}"] = f"{name}.loss_weight", weight
    name = f"{losses}.CrossEntropyLoss.avg_non_ignore"
    found["loss.average"] = name, "valid" if m.take(name, False) else "all"
    found["loss.class_weights"] = _class_weights(m, losses, [kind for kind in there if kind in WEIGHTED])
    if "FocalLoss" in there:
        for field, default in (("gamma", 2.0), ("alpha", 0.5)):
            name = f"{losses}.FocalLoss.{field}"
            value = m.take(name)
            if isinstance(value, tuple):
                m.leave(name, "it is one number for all classes")
            found[f"loss.focal.{field}"] = name, value if isinstance(value, int | float) else default
        if found["loss.average"][1] == "valid":
            m.leave(f"{losses}.FocalLoss", "it is divided by the valid pixels too, loss.average")
    if "DiceLoss" in there:
        name = f"{losses}.DiceLoss.use_sigmoid"
        found["loss.dice.activation"] = name, "sigmoid" if m.take(name, True) else "softmax"
        m.leave(f"{losses}.DiceLoss", "it is taken over, but leaves ignored pixels out, see docs/losses.md")
    return found | _hard_pixels(m, at)


def _class_weights(m, losses, kinds):
    """Their setting and its value, which all losses share here."""
    found = [(name, m.take(name)) for name in (f"{losses}.{kind}.class_weight" for kind in kinds)]
    name, first = found[0] if found else (f"{losses}.CrossEntropyLoss.class_weight", None)
    for other, weights in found[1:]:
        if weights != first:
            m.leave(other, "one loss.class_weights is for cross entropy, focal and Lovasz losses")
    if isinstance(first, str):
        m.leave(name, "the file is not read: write its numbers into loss.class_weights")
        first = None
    return name, first or ()


def _hard_pixels(m, at):
    at = f"{at}.sampler"
    least, threshold = 0, 0.0
    if m.theirs.look(f"{at}.type") == "OHEMPixelSampler":
        m.take(f"{at}.type")
        least, threshold = m.take(f"{at}.min_kept", 100_000), m.take(f"{at}.thresh") or 0.0
    elif m.take(at) is not None:
        m.leave(at, "pixels are picked by OHEMPixelSampler or not at all")
    return {"loss.ohem.min_kept": (at, least), "loss.ohem.threshold": (at, threshold)}
