"""SegFormer-MiT-B3 on Cityscapes with crops of 512x512: a row of the study.

    python -m cropjax.main --config configs/segformer_b3_512.py --workdir runs/segformer_b3_512

Upstream's segformer_mit-b3_8xb1-160k_cityscapes-1024x1024.py with the crop 512x512 instead of 1024x1024, the global
batch 2, one GPU, instead of 8 with the learning rate unchanged, and whole images of 2048x1024 at test. Upstream
publishes mIoU 81.94 at 1024x1024 and batch 8. The study reports 79.98 for its run at 512.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("segformer")
    config.init_from = "weights/mit_b3_20220624-13b1141c.pth"
    config.data.scale = (2048, 1024)  # assumed
    config.data.crop_size = (512, 512)
    config.train.batch_size = 2  # assumed: the CNNs' batch
    config.eval.modes = ("whole",)  # assumed
    return config
