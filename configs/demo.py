"""A small DeepLabV3+ on drawn street scenes: a few minutes on two CPU cores, no data set needed.

python -m cropjax.main --config configs/demo.py
"""

from cropjax.config import defaults


def get_config():
    config = defaults("deeplabv3plus")
    config.model.backbone.update(depth=18, width=16, output_stride=8)
    config.model.head.update(channels=32, dilations=(1, 3, 6, 9), skip_channels=16)
    config.model.auxiliary.channels = 16

    config.data.source = "streets"
    config.data.streets.update(size=(128, 256), train_count=500, eval_count=50)
    config.data.scale = (256, 128)
    config.data.ratio_range = (0.75, 1.5)
    config.data.crop_size = (128, 128)
    config.data.in_memory = True
    config.data.threads = 2

    config.optim.update(lr=0.1, min_lr=1e-4, warmup_steps=50)
    config.train.update(steps=1000, batch_size=8, log_every=50, checkpoint_every=500)
    config.eval.update(every=500, batch_size=10, location_prior=300)
    return config
