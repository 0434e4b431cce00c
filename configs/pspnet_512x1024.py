"""PSPNet-R50-D8 on Cityscapes with crops of 512x1024: upstream's own row.

    python -m cropjax.main --config configs/pspnet_512x1024.py --workdir runs/pspnet_512x1024

Upstream's pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py, nothing changed: batch 8, 80k steps, whole images at test,
align_corners off. Upstream publishes mIoU 78.55.
Hardware: four GPUs with two crops each upstream; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("pspnet")
    config.init_from = "weights/resnet50_v1c-2cccc1ad.pth"
    return config
