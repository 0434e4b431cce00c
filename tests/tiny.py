"""The smallest run that has everything: a narrow network, by default DeepLabV3+ on ResNet-18, on a few streets."""

from cropjax.config import defaults


def tiny_config(network="deeplabv3plus", **data):
    """A config that trains in seconds: 4 steps of 4 crops of 33x33, evaluated on 3 images of 32x64."""
    config = defaults(network)
    match network:
        case "pspnet" | "deeplabv3plus":
            config.model.backbone.update(depth=18, width=4, output_stride=16)
            config.model.head.channels = 8
        case "segformer":
            config.model.backbone.update(widths=(4, 8, 20, 32), depths=(1, 1, 1, 1))
            config.model.head.channels = 8
        case "segnext":
            config.model.backbone.update(widths=(4, 8, 12, 16), depths=(1, 1, 1, 1))
            config.model.head.channels = 32
    config.model.auxiliary.channels = 4
    config.data.source = "streets"
    config.data.streets.update(size=(32, 64), train_count=6, eval_count=3)
    config.data.scale = (64, 32)
    config.data.crop_size = (33, 33)
    config.data.threads = 1
    config.data.update(data)
    config.train.update(steps=4, batch_size=4, log_every=2, checkpoint_every=2)
    config.eval.update(every=4, modes=("whole", "slide"), window=(32, 32), stride=(16, 16), batch_size=2, panels=1)
    return config
