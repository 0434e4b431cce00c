"""The backbone that configs/studies/camvid.py begins with: ResNet-18 of width 16, trained on whole images of CamVid.

    python -m cropjax.main --config configs/studies/backbones/camvid.py --config.data.root=path/to/CamVid \\
        --workdir runs/camvid_backbone
    python -m cropjax.convert --config configs/studies/backbones/camvid.py --workdir runs/camvid_backbone \\
        --checkpoint latest --out weights/camvid_resnet18_w16.safetensors

It stands for the ImageNet weights of the study, which no narrow network has: 4000 crops of 168x168, all that a batch
of 2 sees in 2000 steps, are too few to begin with nothing. Whole images, so that it knows no crop size; PSPNet's head
with one pool and no norm behind it, of which nothing is kept. It has seen no image of the val and test splits.
Hardware: two CPU cores, half an hour.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("pspnet")
    config.model.backbone.update(depth=18, width=16, output_stride=8)
    config.model.head.update(channels=32, pool_scales=(1,), pool_norm=False)
    config.model.auxiliary.channels = 16

    config.data.source = "camvid"
    config.data.scale = (480, 360)
    config.data.crop_size = (360, 480)
    config.data.in_memory = True

    config.optim.update(lr=0.05, min_lr=1e-4, warmup_steps=100)
    config.train.update(steps=2000, batch_size=4, log_every=20, checkpoint_every=250)
    config.eval.update(every=500, batch_size=1)
    return config
