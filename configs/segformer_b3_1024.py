"""SegFormer-MiT-B3 on Cityscapes with crops of 1024x1024: upstream's own row.

    python -m cropjax.main --config configs/segformer_b3_1024.py --workdir runs/segformer_b3_1024

Upstream's segformer_mit-b3_8xb1-160k_cityscapes-1024x1024.py, nothing changed: batch 8, 160k steps, windows of
1024x1024, stride 768, at test. Upstream publishes mIoU 81.94.
Hardware: eight GPUs with one crop each upstream; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("segformer")
    config.init_from = "weights/mit_b3_20220624-13b1141c.pth"
    config.data.crop_size = (1024, 1024)
    config.eval.modes = ("slide",)
    config.eval.window, config.eval.stride = (1024, 1024), (768, 768)
    config.eval.best = "slide/miou"
    return config
