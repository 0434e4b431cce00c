"""SegNeXt-MSCAN-T on Cityscapes with crops of 512x512.

    python -m cropjax.main --config configs/segnext_t_512.py --workdir runs/segnext_t_512

Upstream has SegNeXt for ADE20K only: segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py with Cityscapes in its
place, and the global batch 2, one GPU, instead of 16 with the learning rate unchanged. Whole images of 2048x1024 at
test. Neither upstream nor the study gives a result for it.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults
from cropjax.models import mscan


def get_config():
    config = defaults("segnext")
    config.model.backbone.update(mscan.SIZES["t"])
    config.model.head.channels = 256
    config.init_from = "weights/mscan_t_20230227-119e8c9f.pth"
    config.data.scale = (2048, 1024)  # assumed
    config.data.crop_size = (512, 512)
    config.train.batch_size = 2  # assumed: the CNNs' batch
    config.eval.modes = ("whole",)  # assumed
    return config
