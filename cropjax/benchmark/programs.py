"""What is timed of ours: the programs that training and evaluation run, on random images."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cropjax.benchmark.machine import forget_peak
from cropjax.benchmark.measure import timer
from cropjax.config import build_model, build_optimizer, example_form, label_set
from cropjax.data.transforms import draw_distortion
from cropjax.errors import UserError
from cropjax.host_memory import StepMemory
from cropjax.inference import Inference
from cropjax.ops.normalize import normalize
from cropjax.ops.plain import plain
from cropjax.sharding import batch_form, make_mesh, place_batch, replicated
from cropjax.step import abstract_state, create_state, make_train_step, merge_model, run_key, split_model


def _the_same(arguments, result):
    return arguments


@dataclass
class Program:
    """A jitted function and its arguments; `following` makes those of the next run out of a result."""

    jitted: Callable
    arguments: tuple
    following: Callable = _the_same

    def __post_init__(self):
        self._compiled = self._memory = None

    def run(self):
        """Once, until the device is done; the first time compiles."""
        if self._compiled is None:
            self._compiled = self.jitted.lower(*self.arguments).compile()
            self._memory = StepMemory(self._compiled)
            forget_peak()
        result = jax.block_until_ready(self._compiled(*self.arguments))
        self.arguments = self.following(self.arguments, result)
        self._memory.after_step()

    def seconds(self):
        return timer(self.run)()

    def flop(self):
        return count_flop(self.jitted, *self.arguments)


@dataclass
class Evaluation:
    """What finds the class `ids` of images in one of evaluation's modes: several programs, and what the host does."""

    inference: Inference
    weights: dict
    images: np.ndarray
    mode: str

    def run(self):
        """Once, until the device is done; the first time compiles."""
        jax.block_until_ready(self.inference.ids(self.weights, self.images, self.mode))

    def seconds(self):
        return timer(self.run)()

    def flop(self):
        """Of the network, all that it sees; None where XLA counts none."""
        calls = self.inference.calls(self.weights, self.images.shape, self.mode)
        counts = [(count_flop(jax.jit(function), *forms), times) for function, forms, times in calls]
        return sum(flop * times for flop, times in counts) if all(flop for flop, _ in counts) else None


def count_flop(jitted, *arguments):
    """FLOP of one call, 2 for a multiplication with its addition, by XLA's count of the program as it is lowered.

    The program by definition is counted, so that a shortcut raises the share of the peak and does not lower the work.
    The body of a loop is counted once. None for several devices that are not CPUs.
    """
    defined = jax.jit(lambda *arguments: jitted.__wrapped__(*arguments))  # a new function: the other is traced already
    with plain():
        cost = defined.lower(*arguments).cost_analysis() or _cost_on_cpu(defined, arguments)
    return float(cost["flops"]) if cost and "flops" in cost else None


def _cost_on_cpu(jitted, arguments):
    """XLA's count by its CPU client, since a GPU's has none: the program moves there without its devices."""
    exported = jax.export.export(jitted, platforms=["cpu"])(*arguments)
    if exported.nr_devices > 1:
        return None
    forms = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.jit(exported.call).lower(*forms).cost_analysis()


def random_batch(n, size, classes, seed):
    """A training batch of noise: image uint8 [n,h,w,3], label uint8 [n,h,w], size int32 [n,2]."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (n, *size, 3), np.uint8),
        "label": rng.integers(0, classes, (n, *size), np.uint8),
        "size": np.full((n, 2), size, np.int32),
    }


class Programs:
    """The network of a config, freshly drawn, and its programs."""

    def __init__(self, config):
        self.config, self.mesh = config, make_mesh(**config.mesh)
        self.graph, self.weights = split_model(build_model(config))
        self.classes = label_set(config).num_classes

    def keeping(self, keep):
        """The same with `train.keep` for all stages, whose step takes other memory and other time."""
        config = ConfigDict(self.config)
        config.train.keep = (keep,) * 4
        return Programs(config)

    def batch(self, n, size):
        batch = random_batch(n, size, self.classes, self.config.seed)
        if "distortion" in example_form(self.config):
            rng = np.random.default_rng(self.config.seed)
            batch["distortion"] = np.stack([draw_distortion(rng) for _ in range(n)])
        return batch

    def forward(self, batch, dtype):
        """Logits at the head's stride of normalised images in `dtype`, in evaluation mode."""
        images = normalize(self._placed(batch)["image"], dtype=jnp.dtype(dtype))
        return Program(jax.jit(lambda weights, x: merge_model(self.graph, weights)(x).logits), (self._held(), images))

    def train(self, batch):
        """The step of training from uint8 images on the device; its state goes on from run to run."""
        step, direction = self._step()
        state = create_state(self.weights, direction, self.mesh)
        arguments = state, self._placed(batch), run_key(self.config.seed, self.mesh)
        return Program(step, arguments, lambda arguments, result: (result[0], *arguments[1:]))

    def train_forms(self, n, size):
        """The step of training on `n` crops, traced for shapes alone -> `jax.stages.Traced`."""
        step, direction = self._step()
        self._check(n)
        template = abstract_state(self.weights, direction, self.mesh)
        batch = batch_form(n, self.mesh, **example_form(self.config, size))
        return step.trace(template, batch, run_key(self.config.seed, self.mesh))

    def evaluation(self, batch, mode):
        """Class ids of the batch's uint8 images, from the host and at their size, as evaluation finds them."""
        self._check(len(batch["image"]))
        config = ConfigDict(self.config)
        config.data.scale = batch["image"].shape[1:3]
        return Evaluation(Inference(self.graph, config, self.mesh), self._held(), batch["image"], mode)

    def logits(self, batch):
        """What another kit's network must agree with: logits float32 [n,h',w',k], its products at full precision."""
        with jax.default_matmul_precision("highest"):
            program = self.forward(batch, "float32")
            return np.asarray(program.jitted(*program.arguments))

    def _step(self):
        direction, schedule = build_optimizer(self.config)
        # Those that a data set would give; any are as fast.
        weights = tuple(np.linspace(0.5, 1.5, self.classes)) if self.config.loss.balance != "none" else ()
        return make_train_step(self.graph, direction, schedule, self.config, self.mesh, weights), direction

    def _held(self):
        return jax.device_put(self.weights, replicated(self.mesh))

    def _placed(self, batch):
        self._check(len(batch["image"]))
        return place_batch(batch, self.mesh)

    def _check(self, n):
        devices = self.mesh.shape["data"]
        if n % devices:
            raise UserError(
                f"a batch of {n} does not divide among the {devices} devices of mesh.data: make it a multiple of "
                f"{devices}, show fewer devices (CUDA_VISIBLE_DEVICES), or set mesh.data and mesh.space"
            )
