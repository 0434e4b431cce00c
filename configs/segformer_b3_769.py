"""SegFormer-MiT-B3 on Cityscapes with crops of 769x769: the study's larger crop.

    python -m cropjax.main --config configs/segformer_b3_769.py --workdir runs/segformer_b3_769

Upstream's segformer_mit-b3_8xb1-160k_cityscapes-1024x1024.py with the crop 769x769 instead of 1024x1024, the global
batch 2, one GPU, instead of 8 with the learning rate unchanged; image scale 2049x1025 and windows of 769x769, stride
513, at test, as the CNNs at this crop. The study gives no result for it; upstream publishes mIoU 81.94 at 1024x1024
and batch 8. align_corners stays off, unlike in the CNNs' configs.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("segformer")
    config.init_from = "weights/mit_b3_20220624-13b1141c.pth"
    config.data.scale = (2049, 1025)  # assumed
    config.data.crop_size = (769, 769)
    config.train.batch_size = 2  # assumed: the CNNs' batch
    config.eval.modes = ("slide",)  # assumed
    config.eval.window, config.eval.stride = (769, 769), (513, 513)  # assumed
    config.eval.best = "slide/miou"
    return config
