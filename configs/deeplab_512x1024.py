"""DeepLabV3+-R50-D8 on Cityscapes with crops of 512x1024: upstream's own row.

    python -m cropjax.main --config configs/deeplab_512x1024.py --workdir runs/deeplab_512x1024

Upstream's deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024.py, nothing changed: batch 8, 80k steps, whole images at
test, align_corners off. Upstream publishes mIoU 80.09.
Hardware: four GPUs with two crops each upstream; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("deeplabv3plus")
    config.init_from = "weights/resnet50_v1c-2cccc1ad.pth"
    return config
