"""PSPNet-R50-D8, crops of 512x512, twice the batch: a remedy of the study.

    python -m cropjax.main --config configs/pspnet_512_batch4.py --workdir runs/pspnet_512_batch4

As pspnet_512.py with a global batch of 4 in place of 2; the learning rate stays. The study proposed it (9.1).
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("pspnet")
    config.init_from = "weights/resnet50_v1c-2cccc1ad.pth"
    config.data.crop_size = (512, 512)
    config.train.batch_size = 4
    return config
