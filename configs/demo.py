"""A small network on drawn street scenes: a few minutes on two CPU cores, no data set needed.

    python -m cropjax.main --config configs/demo.py

trains a DeepLabV3+; `--config configs/demo.py:segformer`, `:segnext` or `:pspnet` a small network of another family.
Results: docs/results.md.
"""

from cropjax.config import defaults


def get_config(network="deeplabv3plus"):
    config = defaults(network)
    if network in ("pspnet", "deeplabv3plus"):
        config.model.backbone.update(depth=18, width=16, output_stride=8)
        config.model.head.channels = 32
        config.model.auxiliary.channels = 16
        config.optim.update(lr=0.1, min_lr=1e-4, warmup_steps=50)
    else:
        config.model.backbone.update(widths=(16, 32, 80, 128), depths=(1, 1, 2, 1))
        config.model.head.channels = 64
        config.optim.update(lr=2e-3, warmup_steps=50, rules=(("norm", 1.0, 0.0),))
    if network == "deeplabv3plus":
        config.model.head.update(dilations=(1, 3, 6, 9), skip_channels=16)

    config.data.source = "streets"
    config.data.streets.update(size=(128, 256), train_count=500, eval_count=50)
    config.data.scale = (256, 128)
    config.data.ratio_range = (0.75, 1.5)
    config.data.crop_size = (128, 128)
    config.data.in_memory = True

    config.train.update(steps=1000, batch_size=8, log_every=50, checkpoint_every=500)
    config.eval.update(every=500, batch_size=10, location_prior=300)
    return config
