"""SegFormer-MiT-B0 on Cityscapes with crops of 512x512.

    python -m cropjax.main --config configs/segformer_b0_512.py --workdir runs/segformer_b0_512

Upstream's segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py with the crop 512x512 instead of 1024x1024, the global
batch 2, one GPU, instead of 8 with the learning rate unchanged, and whole images of 2048x1024 at test. Upstream
publishes mIoU 76.54 at 1024x1024 and batch 8.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults
from cropjax.models import mit


def get_config():
    config = defaults("segformer")
    config.model.backbone.update(mit.SIZES["b0"])
    config.init_from = "weights/mit_b0_20220624-7e0fe6dd.pth"
    config.data.scale = (2048, 1024)  # assumed
    config.data.crop_size = (512, 512)
    config.train.batch_size = 2  # assumed: the CNNs' batch
    config.eval.modes = ("whole",)  # assumed
    return config
