"""DeepLabV3+-R50-D8 on Cityscapes with crops of 512x512: a row of the study.

    python -m cropjax.main --config configs/deeplab_512.py --workdir runs/deeplab_512

Upstream's deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024.py with two differences: the crop is 512x512 instead of
512x1024, and the global batch is 2, one GPU, instead of 8 with the learning rate unchanged. Tested on whole images of
2048x1024, align_corners off. No such row is published; upstream's own 512x1024 row reaches mIoU 80.09 at batch 8. The
study reports 58.02 for its run.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("deeplabv3plus")
    config.init_from = "weights/resnet50_v1c-2cccc1ad.pth"
    config.data.crop_size = (512, 512)
    config.train.batch_size = 2
    return config
