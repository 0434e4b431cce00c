"""The backbone that configs/studies/streets.py begins with: ResNet-18 of width 16, trained on drawn scenes of 1024x512.

    python -m cropjax.main --config configs/studies/backbones/streets.py --workdir runs/streets_backbone
    python -m cropjax.convert --config configs/studies/backbones/streets.py --workdir runs/streets_backbone \\
        --checkpoint latest --out docs/results/streets/backbone.safetensors

It stands for the ImageNet weights of the study: of the 600 crops that a run of 300 steps sees, a network that begins
with nothing learns too little to be compared. Scenes of another size and seed than the study's, at many scales, so that
it knows neither its images nor its crops; PSPNet's head with one pool and no norm behind it, of which nothing is kept.
Hardware: two CPU cores, half an hour.
"""

from cropjax.config import defaults


def get_config():
    config = defaults("pspnet")
    config.model.backbone.update(depth=18, width=16, output_stride=8)
    config.model.head.update(channels=32, pool_scales=(1,), pool_norm=False)
    config.model.auxiliary.channels = 16

    config.data.source = "streets"
    config.data.streets.update(size=(512, 1024), train_count=300, eval_count=20, seed=1)
    config.data.scale = (1024, 512)
    config.data.ratio_range = (0.25, 2.0)
    config.data.crop_size = (256, 256)
    config.data.in_memory = True

    config.optim.update(lr=0.05, min_lr=1e-4, warmup_steps=100)
    config.train.update(steps=1200, batch_size=4, log_every=20, checkpoint_every=250)
    config.eval.update(every=250, batch_size=1)
    return config
