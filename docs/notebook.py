# %% [markdown]
# # A crop, a network, and what it sees
#
# Trains a small DeepLabV3+ on [drawn streets](streets.md), predicts, and looks inside. No GPU, no data set; about a
# minute on two CPU cores. Needs cropjax and Jupyter: `pip install -e '.[dev]'` in a clone.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import cropjax
from cropjax.config import build_source, defaults
from cropjax.instruments.effective_field import effective_field, gradient_mass
from cropjax.instruments.receptive_field import receptive_fields
from cropjax.instruments.valid_taps import valid_taps
from cropjax.ops.normalize import normalize
from cropjax.restore import restore_run
from cropjax.sharding import one_device
from cropjax.step import merge_model, weights_of
from cropjax.train import train
from cropjax.validation import validate

# %% [markdown]
# ## The config
#
# The [defaults](configuration.md) are mmsegmentation's for Cityscapes. Here everything is small: scenes of 64x128,
# crops of 64x64, a ResNet-18 of width 8, and pyramid rates that fit such maps.

# %%
config = defaults("deeplabv3plus")
config.model.backbone.update(depth=18, width=8)
config.model.head.update(channels=24, dilations=(1, 3, 6, 9), skip_channels=8)
config.model.auxiliary.channels = 8
config.data.source = "streets"
config.data.streets.update(size=(64, 128), train_count=200, eval_count=20)
config.data.update(scale=(128, 64), ratio_range=(1.0, 1.5), crop_size=(64, 64), in_memory=True)
config.optim.update(lr=0.1, warmup_steps=30)
config.train.update(steps=300, batch_size=8, log_every=100, checkpoint_every=300)
config.eval.update(every=300, batch_size=10)
validate(config)

source = build_source(config, "train")
figure, axes = plt.subplots(2, 3, figsize=(9, 3.2), layout="constrained")
palette = np.zeros((256, 3), np.uint8)
palette[: source.labels.num_classes] = source.labels.palette
for above, below, record in zip(*axes, [source[i] for i in range(3)], strict=True):
    above.imshow(record["image"])
    below.imshow(palette[record["label"]])
for axis in axes.flat:
    axis.set_axis_off()

# %% [markdown]
# ## Train
#
# What `python -m cropjax.main` does. The folder has checkpoints, curves (`tensorboard --logdir ...`) and the config;
# the same call again would go on from the last checkpoint.

# %%
run = Path(tempfile.mkdtemp()) / "notebook"
scores = train(config, run)

# %% [markdown]
# ## Predict
#
# A run folder is all that [`cropjax.load`](predict.md) needs.

# %%
net = cropjax.load(run)
record = build_source(config, "eval")[0]
image = record["image"]
mask = net(image)  # uint8 [h, w]
confidence = net.probabilities(image).max(-1)

figure, axes = plt.subplots(1, 3, figsize=(9, 1.8), layout="constrained")
axes[0].imshow(net.overlay(image, record["label"]))
axes[0].set_title("label")
axes[1].imshow(net.overlay(image, mask))
axes[1].set_title("prediction")
axes[2].imshow(confidence, cmap="gray", vmin=0, vmax=1)
axes[2].set_title("largest probability")
for axis in axes:
    axis.set_axis_off()
print("predicted:", ", ".join(net.classes[i] for i in np.unique(mask)))

# %% [markdown]
# ## What a position can see
#
# The receptive field of each map, read off the network's program: `None` is the whole image, which the pooled branch
# sees. [Instruments](instruments.md) take any function of weights and images.

# %%
_, graph, state = restore_run(config, run, "best", one_device())
weights = weights_of(state)


def maps(weights, images):
    output = merge_model(graph, weights)(images)
    return {f"stage {i + 1}": x for i, x in enumerate(output.maps)} | {"logits": output.logits}


fields, _ = receptive_fields(maps, weights)
for field in fields:
    print(f"{field.name}: {field.size[0]} pixels, every {field.jump[0]:g}")

# %% [markdown]
# ## Taps of the pyramid, crop against whole image
#
# Of a dilated 3x3 kernel, how many of the nine taps lie inside of the map: the larger the rate and the smaller the map,
# the fewer. What the network has learned on crops it uses on whole images. Cityscapes' sizes, output stride 8:

# %%
sizes = {"crop 512": (64, 64), "crop 769": (97, 97), "1024x2048": (128, 256)}
for rate in (12, 24, 36):
    means = {
        name: valid_taps(size, kernel=(3, 3), dilation=(rate, rate), padding=((rate, rate),) * 2).mean
        for name, size in sizes.items()
    }
    print(f"rate {rate}: " + ", ".join(f"{name} {mean:.2f} of 9" for name, mean in means.items()))

# %% [markdown]
# ## What a position does depend on
#
# The gradient of one position of the logits with respect to the image: the effective receptive field of the network
# that was just trained. The cross is the position's pixel.

# %%
images = np.asarray(normalize(np.stack([build_source(config, "eval")[i]["image"] for i in range(4)])))
mass = gradient_mass(lambda weights, images: maps(weights, images)["logits"])
found = effective_field(mass, weights, images, (8, 16), (16, 32))
figure, axis = plt.subplots(figsize=(5, 2.4), layout="constrained")
axis.imshow(np.sqrt(found.mass), cmap="magma", extent=(-0.5, 127.5, 63.5, -0.5))
axis.plot(*found.centre[::-1], "+", color="white")
axis.set_title("square root of the gradient's mass")
print("half the side of the square with 50, 90, 95 %:", found.radius.mean(0).round(1), "pixels")

# %% [markdown]
# Next: [your own data](tutorial.md), [crop size in practice](crop_size.md), and `python -m cropjax.analyze`, which
# measures all of this for a config and a run.
