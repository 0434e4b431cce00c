"""SegNeXt-MSCAN-B on Cityscapes with crops of 769x769: the study's larger crop.

    python -m cropjax.main --config configs/segnext_b_769.py --workdir runs/segnext_b_769

As segnext_b_512.py with the crop 769x769, image scale 2049x1025, and windows of 769x769, stride 513, at test, as the
CNNs at this crop. The study gives no result for it.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("segnext")
    config.init_from = "weights/mscan_b_20230227-3ab7d230.pth"
    config.data.scale = (2049, 1025)  # assumed
    config.data.crop_size = (769, 769)
    config.train.batch_size = 2  # assumed: the CNNs' batch
    config.eval.modes = ("slide",)  # assumed
    config.eval.window, config.eval.stride = (769, 769), (513, 513)  # assumed
    config.eval.best = "slide/miou"
    return config
