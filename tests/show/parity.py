"""A table of how far our networks are from upstream's, by the fixtures in tests/reference.

    python tests/show/parity.py

Columns: the largest difference of any stage or of the logits in float32, and upstream's own float32 from its float64;
the same in float64; of any gradient in float64; of the total loss in six optimiser steps. Differences are over the
array's largest value, those of losses absolute. A row a network and `align_corners`.
"""

import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from fixtures import Case, relative
from test_parity import FULL, NARROW, activations, make_step, wide

from cropjax.models import segnext

jax.config.update("jax_enable_x64", True)


def row(name, align):
    case = Case(name, align)
    if "bases" in case.meta:
        segnext.draw_bases = case.bases
    image = case.image("eval")
    single = relative(activations(case, case.weights, image), case["eval"])
    double = relative(activations(case, wide(case.weights), image.astype(float)), case["eval"])
    noise = max(case.meta["cases"][case.part]["float32_noise"].values())
    step, optimizer = make_step(case)
    weights, totals = wide(case.weights), []
    steps = case["steps"] if f"{case.part}/steps" in case.arrays else []
    for i in range(max(len(steps), 1)):
        weights, optimizer, parts, grads = step(weights, optimizer)
        totals.append(float(parts["total"]))
        if i == 0:
            names, count = case.arrays["names"], case.meta["values"]["grad"]
            gradient = relative(case.summaries(grads, names, count), case["grad"])
    losses = f"{np.abs(np.array(totals) - steps).max():.1e}" if len(steps) else "-"
    print(
        f"| `{name}` | {bool(align)} | {single:.1e} | {noise:.1e} | {double:.1e} | {gradient:.1e} | {losses} |",
        flush=True,
    )


if __name__ == "__main__":
    print("| network | align_corners | float32 | upstream's noise | float64 | gradients | six losses |")
    print("|---|---|---|---|---|---|---|")
    for case in [*NARROW, *FULL]:
        row(*getattr(case, "values", (case,))[0])
