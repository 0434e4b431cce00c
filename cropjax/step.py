"""The state of training and the one jitted step that moves it."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from flax import nnx

from cropjax.losses import resized_cross_entropy
from cropjax.ops.normalize import normalize
from cropjax.ops.photometric import distort
from cropjax.sharding import replicated, split_rows


@flax.struct.dataclass
class TrainMetrics(metrics.Collection):
    """What a step reports, averaged over the steps between two log lines; losses carry their weights."""

    loss: metrics.Average.from_output("loss")
    loss_decode: metrics.Average.from_output("loss_decode")
    loss_auxiliary: metrics.Average.from_output("loss_auxiliary")
    accuracy: metrics.Average.from_output("accuracy")
    lr: metrics.LastValue.from_output("lr")
    gradient_norm: metrics.Average.from_output("gradient_norm")
    parameter_norm: metrics.LastValue.from_output("parameter_norm")
    update_norm: metrics.Average.from_output("update_norm")
    statistics_norm: metrics.LastValue.from_output("statistics_norm")


def split_model(model):
    """A network as its structure and its weights {"params", "batch_stats"}, pure dicts of arrays."""
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(stats)}


def merge_model(graph, weights):
    """The inverse of `split_model`; safe inside `jit` and `grad`."""
    return nnx.merge(graph, weights["params"], weights["batch_stats"], copy=True)


def create_state(weights, direction, mesh):
    """The state at step 0 {"params", "batch_stats", "opt_state", "step"}, on every device of `mesh`."""
    state = weights | {"step": np.zeros((), np.int32)}
    state = jax.device_put(state, replicated(mesh))
    init = jax.jit(direction.init, out_shardings=replicated(mesh))
    return state | {"opt_state": init(state["params"])}


def abstract_state(weights, direction, mesh):
    """The form of the state, `jax.ShapeDtypeStruct`s with shardings, to restore a checkpoint into."""
    state = weights | {"step": np.zeros((), np.int32), "opt_state": jax.eval_shape(direction.init, weights["params"])}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), state)


def network_input(batch, dtype):
    """The images of a training batch, `dtype` [n,h,w,3]: distorted if the host has left that to the device, normalised.

    Padding is 0.
    """
    images = distort(batch["image"], batch["distortion"]) if "distortion" in batch else batch["image"]
    return normalize(images, batch["size"], dtype)


def segmentation_loss(
    model, images, labels, *, key, align_corners, average, auxiliary_weight, weights=(), in_bands=True
):
    """Loss of `model` in training on normalised `images` [n,h,w,3]: (total, {name: part}).

    Both heads' logits are resized to the labels; the auxiliary loss is weighted inside its part, as upstream logs it.
    `weights` and `in_bands`: see `resized_cross_entropy`.
    """
    output = model(images, train=True, key=key)
    entropy = partial(
        resized_cross_entropy,
        labels=labels,
        align_corners=align_corners,
        average=average,
        weights=weights,
        in_bands=in_bands,
    )
    decode, accuracy = entropy(output.logits)
    auxiliary = jnp.zeros_like(decode)
    if output.auxiliary is not None:
        auxiliary = auxiliary_weight * entropy(output.auxiliary)[0]
    return decode + auxiliary, {"loss_decode": decode, "loss_auxiliary": auxiliary, "accuracy": accuracy}


def make_train_step(graph, direction, schedule, config, mesh, class_weights=()):
    """The jitted `(state, batch) -> (state, TrainMetrics)`; the state is donated.

    `class_weights`, one a class, are those of `config.loss` unless given.
    """
    class_weights = class_weights or tuple(config.loss.class_weights)
    dtype = jnp.dtype(config.train.dtype)
    base_key = jax.random.key(config.seed)

    def step(state, batch):
        def loss(params):
            model = merge_model(graph, {"params": params, "batch_stats": state["batch_stats"]})
            images = split_rows(network_input(batch, dtype), mesh)
            total, parts = segmentation_loss(
                model,
                images,
                batch["label"],
                key=jax.random.fold_in(base_key, state["step"]),
                align_corners=config.model.align_corners,
                average=config.loss.average,
                auxiliary_weight=config.loss.auxiliary_weight,
                weights=class_weights,
                in_bands=mesh.shape["space"] == 1,
            )
            return total, (parts, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (total, (parts, stats)), grads = jax.value_and_grad(loss, has_aux=True)(state["params"])
        updates, opt_state = direction.update(grads, state["opt_state"], state["params"])
        lr = schedule(state["step"])
        updates = jax.tree.map(lambda u: (-lr * u).astype(u.dtype), updates)
        params = optax.apply_updates(state["params"], updates)
        report = TrainMetrics.single_from_model_output(
            loss=total,
            **parts,
            lr=lr,
            gradient_norm=optax.tree.norm(grads),
            parameter_norm=optax.tree.norm(params),
            update_norm=optax.tree.norm(updates),
            statistics_norm=optax.tree.norm(stats),
        )
        return {"params": params, "batch_stats": stats, "opt_state": opt_state, "step": state["step"] + 1}, report

    return jax.jit(step, donate_argnums=0, out_shardings=replicated(mesh))
