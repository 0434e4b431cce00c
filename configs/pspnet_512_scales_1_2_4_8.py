"""PSPNet-R50-D8, crops of 512x512, finer pooling: a remedy of the study.

    python -m cropjax.main --config configs/pspnet_512_scales_1_2_4_8.py --workdir runs/pspnet_512_scales_1_2_4_8

As pspnet_512.py with pool scales 1-2-4-8 in place of 1-2-3-6. The study proposed it (9.1) and left the answer
pending.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("pspnet")
    config.init_from = "weights/resnet50_v1c-2cccc1ad.pth"
    config.model.head.pool_scales = (1, 2, 4, 8)
    config.data.crop_size = (512, 512)
    config.train.batch_size = 2
    return config
