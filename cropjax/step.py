"""The state of training and the one jitted step that moves it."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from flax import nnx
from jax import lax

from cropjax.config import build_objective
from cropjax.losses.average import shares
from cropjax.ops.normalize import normalize
from cropjax.ops.photometric import distort
from cropjax.sharding import in_parts, replicated, rows_split_over, split_largest, split_rows


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


def weights_of(state):
    """What of a state is evaluated, {"params", "batch_stats"}: the average of the parameters where it keeps one."""
    return {"params": state.get("ema", state["params"]), "batch_stats": state["batch_stats"]}


def create_state(weights, direction, mesh, *, shard_optimizer=False, ema=False):
    """The state at step 0 {"params", "batch_stats", "opt_state", "step"}, with `ema` also that, an average of params.

    It is placed as `abstract_state` says.
    """
    placement = _placement(abstract_state(weights, direction, mesh, shard_optimizer=shard_optimizer, ema=ema))
    state = weights | {"step": np.zeros((), np.int32)}
    if ema:
        state["ema"] = jax.tree.map(np.copy, weights["params"])  # both are donated
    state = jax.device_put(state, {name: placement[name] for name in state})
    init = jax.jit(direction.init, out_shardings=placement["opt_state"])
    return state | {"opt_state": init(state["params"])}


def abstract_state(weights, direction, mesh, *, shard_optimizer=False, ema=False):
    """The form of the state, `jax.ShapeDtypeStruct`s with shardings, to restore a checkpoint into.

    Every device of `mesh` has all of it; with `shard_optimizer`, of the optimiser's arrays only its part over `data`.
    """
    state = weights | {"step": np.zeros((), np.int32), "opt_state": jax.eval_shape(direction.init, weights["params"])}
    if ema:
        state["ema"] = weights["params"]

    def form(path, x):
        split = shard_optimizer and path[0].key == "opt_state"
        sharding = split_largest(x.shape, mesh) if split else replicated(mesh)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map_with_path(form, state)


def _placement(template):
    return jax.tree.map(lambda x: x.sharding, template)


def moving_average(average, params, momentum, step):
    """(1 - momentum) average + momentum params, and after the first step (`step` = 0) params alone.

    mmengine's ExponentialMovingAverage, in the form in which what does not move stays to the bit.
    """
    return jax.tree.map(lambda old, new: jnp.where(step == 0, new, old + momentum * (new - old)), average, params)


def network_input(batch, dtype):
    """The images of a training batch, `dtype` [n,h,w,3]: distorted if the host has left that to the device, normalised.

    Padding is 0.
    """
    images = distort(batch["image"], batch["distortion"]) if "distortion" in batch else batch["image"]
    return normalize(images, batch["size"], dtype)


def segmentation_loss(model, images, labels, *, key, objective, auxiliary_weight):
    """Loss of `model` in training on normalised `images` [n,h,w,3]: (total, {name: part}).

    `objective` is that of both heads; the auxiliary loss is weighted inside its part, as upstream logs it.
    """
    output = model(images, train=True, key=key)
    decode, accuracy = objective(output.logits, labels)
    auxiliary = jnp.zeros_like(decode)
    if output.auxiliary is not None:
        auxiliary = auxiliary_weight * objective(output.auxiliary, labels)[0]
    return decode + auxiliary, {"loss_decode": decode, "loss_auxiliary": auxiliary, "accuracy": accuracy}


def run_key(seed, mesh):
    """What all draws of a run's steps come from, on every device of `mesh`.

    An argument of the step and no constant: runs that differ in their seed share its program.
    """
    drawn = jax.jit(lambda: jax.random.key(seed), out_shardings=replicated(mesh))  # device_put cannot reach other hosts
    return drawn()


def make_train_step(graph, direction, schedule, config, mesh, class_weights=(), template=None):
    """The jitted `(state, batch, key) -> (state, TrainMetrics)`; the state is donated, and `key` is that of `run_key`.

    `class_weights`, one a class, are those of `config.loss` unless given. The new state is placed as in `template`, of
    `abstract_state`, or replicated.

    With `train.accumulate` = k the batch goes through the network in k contiguous parts, one after the other. The loss
    is still summed over the whole batch and divided once, and BatchNorm's statistics, a part's own, move once a step to
    the mean over all groups: but for what dropout and Hamburger draw, the step is that of k = 1 and the same
    `model.norm.groups`.
    """
    objective = build_objective(config, class_weights, in_bands=mesh.shape["space"] == 1)
    dtype = jnp.dtype(config.train.dtype)

    def loss(params, batch_stats, batch, key, share=1):
        model = merge_model(graph, {"params": params, "batch_stats": batch_stats})
        images = split_rows(network_input(batch, dtype))
        total, parts = segmentation_loss(
            model,
            images,
            batch["label"],
            key=key,
            objective=objective,
            auxiliary_weight=config.loss.auxiliary_weight,
        )
        return total * share, (parts | {"loss": total}, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    def gradient(*operands):
        with rows_split_over(mesh):
            return jax.grad(loss, has_aux=True)(*operands)

    def in_turn(params, batch_stats, batch, key):
        """As `gradient`, of one part of the batch after the other."""
        count = config.train.accumulate
        parts = in_parts(batch, count, mesh)
        of_loss, of_accuracy = shares(parts["label"], objective.average, objective.class_weights)

        def turn(part):
            i, batch, of_loss, of_accuracy = part
            grads, (found, stats) = gradient(params, batch_stats, batch, jax.random.fold_in(key, i), of_loss)
            found = {name: value * (of_accuracy if name == "accuracy" else of_loss) for name, value in found.items()}
            return grads, (found, jax.tree.map(lambda new, old: (new - old) / count, stats, batch_stats))

        turns = jnp.arange(count), parts, of_loss, of_accuracy
        form = jax.eval_shape(turn, jax.tree.map(lambda x: x[0], turns))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)
        grads, (found, moves) = lax.scan(
            lambda sums, part: (jax.tree.map(jnp.add, sums, turn(part)), None), zeros, turns
        )[0]
        return grads, (found, jax.tree.map(jnp.add, batch_stats, moves))

    def step(state, batch, key):
        key = jax.random.fold_in(key, state["step"])
        network = gradient if config.train.accumulate == 1 else in_turn
        grads, (found, stats) = network(state["params"], state["batch_stats"], batch, key)
        updates, opt_state = direction.update(grads, state["opt_state"], state["params"])
        lr = schedule(state["step"])
        updates = jax.tree.map(lambda u: (-lr * u).astype(u.dtype), updates)
        params = optax.apply_updates(state["params"], updates)
        report = TrainMetrics.single_from_model_output(
            **found,
            lr=lr,
            gradient_norm=optax.tree.norm(grads),
            parameter_norm=optax.tree.norm(params),
            update_norm=optax.tree.norm(updates),
            statistics_norm=optax.tree.norm(stats),
        )
        new = {"params": params, "batch_stats": stats, "opt_state": opt_state, "step": state["step"] + 1}
        if config.train.ema:
            new["ema"] = moving_average(state["ema"], params, config.train.ema, state["step"])
        return new, report

    placement = replicated(mesh) if template is None else _placement(template)
    return jax.jit(step, donate_argnums=0, out_shardings=(placement, replicated(mesh)))
