"""DeepLabV3+-R50-D8, crops of 512x512, half the dilation rates: a remedy of the study.

    python -m cropjax.main --config configs/deeplab_512_rates_6_12_18.py --workdir runs/deeplab_512_rates_6_12_18

As deeplab_512.py with ASPP's rates 6-12-18 in place of 12-24-36. The study proposed it (9.1) and left the answer
pending.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("deeplabv3plus")
    config.init_from = "weights/resnet50_v1c-2cccc1ad.pth"
    config.model.head.dilations = (1, 6, 12, 18)
    config.data.crop_size = (512, 512)
    config.train.batch_size = 2
    return config
