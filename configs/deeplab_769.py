"""DeepLabV3+-R50-D8 on Cityscapes with crops of 769x769: a row of the study.

    python -m cropjax.main --config configs/deeplab_769.py --workdir runs/deeplab_769

Upstream's deeplabv3plus_r50-d8_4xb2-80k_cityscapes-769x769.py with one difference: the global batch is 2, one GPU,
instead of 8 with the learning rate unchanged. Against the 512 config four things change at once: the crop,
align_corners (on), the image scale (2049x1025) and the test mode (windows of 769x769, stride 513). Upstream publishes
mIoU 79.83 at batch 8; the study reports 66.57 for its run.
Hardware: one GPU; not run by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("deeplabv3plus")
    config.init_from = "weights/resnet50_v1c-2cccc1ad.pth"
    config.model.align_corners = True
    config.data.scale = (2049, 1025)
    config.data.crop_size = (769, 769)
    config.train.batch_size = 2
    config.eval.modes = ("slide",)
    config.eval.window, config.eval.stride = (769, 769), (513, 513)
    config.eval.best = "slide/miou"
    return config
