"""What the study proposed for small crops, on Cityscapes at 512, each by itself: the two answers that it left pending.

    python -m cropjax.study --config configs/studies/remedies.py --workdir runs/remedies --dry_run

Rates of 6-12-18 (DeepLabV3+), scales of 1-2-4-8 (PSPNet), a batch of 4; beside them the norm of the pooled branch off,
and, without any training, pools of the crop's size, windows, and norms of whole images at test. The base is
`configs/{net}_512.py`. Hardware: GPUs for weeks, see --dry_run --benchmark. Not run by us yet.
"""

import runpy
from pathlib import Path

from cropjax.study.plan import new_study

CONFIGS = Path(__file__).parents[1]


def base(name):
    return runpy.run_path(str(CONFIGS / f"{name}_512.py"))["get_config"]()


def get_config():
    study = new_study("Remedies for crops of 512 on Cityscapes")
    study.networks = {"PSPNet": base("pspnet"), "DeepLabV3+": base("deeplab")}
    study.factors = {
        "rates": {"12-24-36": {}, "6-12-18": dict(model=dict(head=dict(dilations=(1, 6, 12, 18))))},
        "scales": {"1-2-3-6": {}, "1-2-4-8": dict(model=dict(head=dict(pool_scales=(1, 2, 4, 8))))},
        "batch": {"2": {}, "4": dict(train=dict(batch_size=4))},
        "pool norm": {"on": {}, "off": dict(model=dict(head=dict(pool_norm=False)))},
    }
    study.grids = (
        {},
        {"network": ("DeepLabV3+",), "rates": ("6-12-18",)},
        {"network": ("PSPNet",), "scales": ("1-2-4-8",)},
        {"batch": ("4",)},
        {"pool norm": ("off",)},
    )
    study.tests = {
        "whole": {},
        "slide 512": dict(eval=dict(modes=("slide",), window=(512, 512), stride=(341, 341))),
        "pools of 512": dict(eval=dict(pool_window=(512, 512))),
        "norms anew": dict(eval=dict(norm_images=64)),
    }
    return study
