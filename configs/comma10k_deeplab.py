"""DeepLabV3+ with ResNet-18 on comma10k, from scratch, on a CPU.

    python -m cropjax.main --config configs/comma10k_deeplab.py --config.data.root=path/to/comma10k

The network of camvid_deeplab.py. Data: the repository commaai/comma10k (1164x874, MIT, 5 classes), of which the names
that end in 9 are the validation split; crops are half as high and wide as the image, but for a row. Not run at full
length by us yet.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("deeplabv3plus")
    config.model.backbone.update(depth=18, output_stride=16)
    config.model.head.update(channels=128, dilations=(1, 6, 12, 18))
    config.model.auxiliary.channels = 64

    config.data.source = "comma10k"
    config.data.scale = (1164, 874)
    config.data.crop_size = (436, 582)

    config.loss.average = "valid"
    config.optim.update(lr=0.05, min_lr=1e-4, warmup_steps=100)
    config.train.update(steps=20_000, batch_size=4)
    config.eval.update(every=2000)
    return config
