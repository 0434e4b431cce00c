"""Section 7: gradients, norms and optimizers."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.config import build_model
from cropjax.instruments import gradient_noise, normalization
from cropjax.instruments.claims.claim import HOLDS, Claims, Finding, compared, is_so
from cropjax.instruments.claims.network import BATCHES, CROPS
from cropjax.models.layers import LayerNorm
from cropjax.step import merge_model, split_model

CLAIMS = Claims()


@CLAIMS.states(
    "7.1", "The heads of CNNs get gradients that the backbone has filtered.", "gradients, PSPNet's narrow twin"
)
def head_gradients(networks):
    """The gradient of the head's weights, with the backbone's maps and with constants in their place."""
    config = gradient_noise.narrow_twin(networks["pspnet"].config)
    graph, weights = split_model(build_model(config))
    images = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)

    def loss(params, cut):
        model = merge_model(graph, weights | {"params": params})
        maps = model.backbone(images, False)
        maps = jax.lax.stop_gradient(maps) if cut else maps
        return jnp.square(model.head(maps, False, None)).sum()

    through, cut = (jax.grad(loss)(weights["params"], cut) for cut in (False, True))
    same = all(map(np.array_equal, jax.tree.leaves(through["head"]), jax.tree.leaves(cut["head"])))
    reached = any(np.any(leaf) for leaf in jax.tree.leaves(cut["backbone"]))
    return is_so(
        not same,
        f"the head's are the same without the backbone's; the backbone then gets {'some' if reached else 'none'}",
        "the backbone's have passed the head",
    )


@CLAIMS.states("7.1", "Global context is learned in every layer of SegFormer and SegNeXt.", "receptive_field")
@CLAIMS.states("7.1", "Attention lets a gradient flow from any output to any input.", "receptive_field")
def direct_paths(networks):
    """Fields of stage 1: where one is smaller than the crop, no gradient of its positions gets further."""
    found = {name: networks[name].fields["stage 1"].size[0] for name in ("segformer", "segnext")}
    value = ", ".join(
        f"{name} {'the whole image' if side is None else f'{side} pixels'}" for name, side in found.items()
    )
    everywhere = [name for name, side in found.items() if side is None]
    return Finding(
        f"stage 1 sees: {value}",
        HOLDS if len(everywhere) == 2 else f"holds for {' and '.join(everywhere) or 'neither'} alone",
    )


CLAIMS.undecided("7.1", "Deep layers of CNNs get attenuated gradients, attention direct ones.")


@CLAIMS.states("7.2", "A batch of two has 524 thousand pixels at 512 and 1.18 million at 769.", "arithmetic")
def norm_pixels(networks):
    return compared((524e3, 1.18e6), [2 * crop**2 for crop in CROPS], "pixels", within=0.01)


@CLAIMS.states("7.2", "BatchNorm's statistics are over these.", "reach")
def norm_positions(networks):
    """What the last stage's BatchNorms see of a batch of two."""
    found = [2 * networks["pspnet"].map_side("stage 4", crop) ** 2 for crop in CROPS]
    return Finding(
        f"{found[0]} and {found[1]} positions at stage 4, ratio {found[1] / found[0]:.2f}",
        "off: a norm sees positions of its map, not pixels; the ratio is nearly the same",
    )


@CLAIMS.states("7.2", "That is 2.25 times as many.", "arithmetic")
def pixel_ratio(networks):
    return compared(2.25, (769 / 512) ** 2, "times")


@CLAIMS.states(
    "7.2", "So BatchNorm's statistics are 2.25 times as stable at 769.", "normalization, PSPNet, drawn weights"
)
def stability(networks):
    found = [one.noise[0][1] for one in networks["pspnet"].measured(normalization, batches=BATCHES)]
    logs, errors = zip(
        *((np.mean(np.log([x.effective for x in one])), normalization.jackknife(np.mean([x.without for x in one], 0)))
          for one in found),
        strict=True,
    )  # fmt: skip
    ratio, error = math.exp(logs[1] - logs[0]), math.hypot(*errors)
    parts = [normalization.by_part(one) for one in found]
    value = f"{ratio:.2f} times as many independent samples, relative error {error:.0%} ("
    value += ", ".join(f"{part} {parts[1][part][1] / parts[0][part][1]:.2f}" for part in parts[0]) + ")"
    if abs(math.log(ratio / 2.25)) < 2 * error:
        return Finding(value, "cannot be decided: within the errors of these batches")
    return Finding(value, "off: it does not follow the pixels")


@CLAIMS.states("7.2", "SegFormer and SegNeXt use LayerNorm.", "normalization, count of norms")
def transformers_norms(networks):
    counts = {
        name: normalization.kinds(merge_model(networks[name].graph, networks[name].weights))
        for name in ("segformer", "segnext")
    }
    value = "; ".join(
        f"{name}: " + ", ".join(f"{count} {kind} in the {part}" for part, kind, count in found)
        for name, found in counts.items()
    )
    batch = {(name, part) for name, found in counts.items() for part, kind, _ in found if kind == "BatchNorm"}
    return is_so(
        not batch, value, f"BatchNorm in {' and '.join(f'the {part} of {name}' for name, part in sorted(batch))}"
    )


@CLAIMS.states(
    "7.2", "LayerNorm depends neither on the batch nor on the crop.", "LayerNorm of a map, of its positions alone"
)
def layer_norm_alone(networks):
    norm = LayerNorm(8, eps=1e-6)
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 8)).astype(np.float32)
    together, alone = norm(x), np.stack([norm(one[None])[0] for one in x.reshape(-1, 8)])
    differ = float(np.abs(np.reshape(together, alone.shape) - alone).max())
    return is_so(differ < 1e-6, f"outputs differ by {differ:.0g}", "they do")


@CLAIMS.states("7.3", "The learning rates are 0.01 and 0.00006, a ratio of 167.", "configuration")
def learning_rates(networks):
    found = [networks[name].config.optim.lr for name in ("pspnet", "segformer")]
    return compared((0.01, 6e-5, 167), (*found, found[0] / found[1]))


@CLAIMS.states("7.3", "The CNNs are trained by SGD, the others by AdamW.", "configuration")
def optimizers(networks):
    found = {name: networks[name].config.optim.name for name in ("pspnet", "deeplabv3plus", "segformer", "segnext")}
    value = ", ".join(f"{network}: {name}" for network, name in found.items())
    return is_so(list(found.values()) == ["sgd", "sgd", "adamw", "adamw"], value, "they are not")


@CLAIMS.states(
    "7.3", "CNNs have noisier gradients than transformers.", "gradient_noise, narrow twins, drawn weights", of="network"
)
@CLAIMS.states(
    "7.3",
    "At small crops the noise of CNNs' gradients grows.",
    "gradient_noise, narrow twins, drawn weights",
    of="crop",
)
def gradients(networks, *, of):
    names = ("pspnet", "segformer") if of == "network" else ("pspnet",)
    found = [networks[name].noise_scales for name in names]
    value = "; ".join(
        f"{name}: " + ", ".join(f"{in_images(x)} at {crop}" for x, crop in zip(one, CROPS, strict=True))
        for name, one in zip(names, found, strict=True)
    )
    if of == "crop":
        return Finding(value, order(*found[0]))
    verdicts = list(map(order, *found))
    if len(set(verdicts)) == 1:
        return Finding(value, verdicts[0])
    return Finding(value, "; ".join(f"{one}, at {crop}" for crop, one in zip(CROPS, verdicts, strict=True)))


def in_images(noise):
    """A noise scale and its error as text."""
    if not np.isfinite(noise.scale + noise.error):
        return "no signal above the noise"
    return f"{noise.scale:.1f} ± {noise.error:.1f} images"


def order(larger, smaller):
    """The verdict on two noise scales, of which the first is said to be larger."""
    numbers = (larger.scale, smaller.scale, larger.error, smaller.error)
    if not np.isfinite(numbers).all() or abs(larger.scale - smaller.scale) < 2 * math.hypot(*numbers[2:]):
        return "cannot be decided: within the errors of these batches"
    return HOLDS if larger.scale > smaller.scale else "does not hold: it is the other way around on untrained twins"
