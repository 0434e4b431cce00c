"""The study that we reproduce: four networks on Cityscapes, crops of 512 and of 769, one GPU, batch 2.

    python -m cropjax.study --config configs/studies/crop_size.py --workdir runs/crop_size --dry_run

Each cell is a config of its own, `configs/{net}_512.py` or `configs/{net}_769.py`: with the crop come align_corners,
the image scale and the test mode, as in the study. --dry_run says so; crop_size_controlled.py takes them apart. `own`
is each config's own test. Hardware: one GPU for weeks; --dry_run --benchmark says how many hours. Not run by us yet.
"""

import runpy
from pathlib import Path

from cropjax.study.plan import ALL, new_study

CONFIGS = Path(__file__).parents[1]
FILES = {"PSPNet": "pspnet", "DeepLabV3+": "deeplab", "SegFormer-B3": "segformer_b3", "SegNeXt-B": "segnext_b"}
NETWORKS = {"pspnet": "pspnet", "deeplabv3plus": "deeplab", "segformer": "segformer_b3", "segnext": "segnext_b"}
THE_STUDY = "the study, one run"


def config_of(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def with_769(config):
    return config_of(f"{NETWORKS[config.model.name]}_769").to_dict()


def get_config():
    study = new_study("Crops of 512 and 769 on Cityscapes, as in the study")
    study.networks = {label: config_of(f"{name}_512") for label, name in FILES.items()}
    study.factors = {"crop": {"512": {}, "769": with_769}}
    study.grids = ({"network": ("PSPNet", "DeepLabV3+"), "crop": ALL}, {"crop": ALL})
    study.tests = {
        "own": {},
        "whole": dict(eval=dict(modes=("whole",))),
        "slide 512": dict(eval=dict(modes=("slide",), window=(512, 512), stride=(341, 341))),
        "slide 769": dict(eval=dict(modes=("slide",), window=(769, 769), stride=(513, 513))),
        "pools of 512": dict(eval=dict(modes=("whole",), pool_window=(512, 512))),
        "pools of 769": dict(eval=dict(modes=("whole",), pool_window=(769, 769))),
    }
    study.contrast = ("crop", "512", "769")
    study.published = (
        ({"network": "PSPNet", "crop": "512"}, "own", 57.64, THE_STUDY),
        ({"network": "PSPNet", "crop": "769"}, "own", 72.50, THE_STUDY),
        ({"network": "DeepLabV3+", "crop": "512"}, "own", 58.02, THE_STUDY),
        ({"network": "DeepLabV3+", "crop": "769"}, "own", 66.57, THE_STUDY),
        ({"network": "SegFormer-B3", "crop": "512"}, "own", 79.98, THE_STUDY),
        ({"network": "SegNeXt-B", "crop": "512"}, "own", 81.22, THE_STUDY),
        ({"network": "PSPNet", "crop": "769"}, "own", 79.59, "mmsegmentation, batch 8"),
        ({"network": "DeepLabV3+", "crop": "769"}, "own", 79.83, "mmsegmentation, batch 8"),
    )
    return study
