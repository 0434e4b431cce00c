"""SegNeXt-MSCAN-B on Cityscapes with crops of 512x512: a row of the study.

    python -m cropjax.main --config configs/segnext_b_512.py --workdir runs/segnext_b_512

Upstream has SegNeXt for ADE20K only: segnext_mscan-b_1xb16-adamw-160k_ade20k-512x512.py with Cityscapes in its
place, and the global batch 2, one GPU, instead of 16 with the learning rate unchanged. Whole images of 2048x1024 at
test. The study reports 81.22 for its run.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("segnext")
    config.init_from = "weights/mscan_b_20230227-3ab7d230.pth"
    config.data.scale = (2048, 1024)  # assumed
    config.data.crop_size = (512, 512)
    config.train.batch_size = 2  # assumed: the CNNs' batch
    config.eval.modes = ("whole",)  # assumed
    return config
