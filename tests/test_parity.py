"""The networks equal mmsegmentation's, narrow ones and those of full size; how, tests/fixtures.py says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import Case, by_upstream_name, nchw, relative
from flax import nnx
from reference import rule

from cropjax import optim
from cropjax.config import build_objective
from cropjax.models import segnext
from cropjax.ops.resize import resize_bilinear
from cropjax.step import merge_model, segmentation_loss

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


# Fixture and align_corners.
NARROW = [("pspnet", 0), ("deeplabv3plus", 1), ("pspnet_r18", 1), ("deeplabv3plus_r18", 0), ("segformer", 0)]
NARROW += [("segnext", 0)]
NARROW += [pytest.param(case, marks=pytest.mark.slow) for case in (("pspnet", 1), ("deeplabv3plus", 0))]
LARGE = ("pspnet", "deeplabv3plus", "segformer_b0", "segformer_b3", "segnext_t", "segnext_b")
FULL = [(f"full_{network}", align) for network in LARGE for align in (0, 1)]


@pytest.fixture(scope="module", params=NARROW, ids=str)
def case(request):
    return Case(*request.param)


@pytest.fixture(scope="module", params=FULL, ids=str)
def full_case(request):
    return Case(*request.param)


@pytest.fixture(autouse=True)
def upstream_bases(request, monkeypatch):
    """SegNeXt's head starts from the bases that upstream's was given."""
    compared = request.getfixturevalue("case" if "case" in request.fixturenames else "full_case")
    if "bases" in compared.meta:
        monkeypatch.setattr(segnext, "draw_bases", compared.bases)


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def activations(case, weights, image):
    @jax.jit
    def forward(weights, image):
        model = merge_model(case.graph, weights)
        output = model(image)
        found = {f"feat{i}": feature for i, feature in enumerate(output.maps)} | {"decode_logits": output.logits}
        if model.auxiliary is not None:
            found["aux_logits"] = model.auxiliary(output.maps, False, None)
        size, align = image.shape[1:3], case.config.model.align_corners
        return found | {"logits": resize_bilinear(output.logits, size, align_corners=align)}

    found = forward(weights, image)
    assert sorted(found) == sorted(case.meta["eval"])
    return np.stack([rule.summary(name, nchw(found[name]), case.meta["values"]["eval"]) for name in case.meta["eval"]])


def make_step(case):
    """The jitted `(weights, optimiser's state) -> (weights, optimiser's state, losses, gradients)`, and that state."""
    image, label = case.image("train").astype(float), jnp.asarray(rule.draw_labels(*case.meta["labels"]))
    if "sgd" in case.meta:
        settings = dict(case.meta["sgd"])
        lr, make = settings.pop("lr"), optim.sgd
    else:
        settings = dict(case.meta["adamw"])
        lr, make = settings.pop("lr"), optim.adamw
        settings["beta1"], settings["beta2"] = settings.pop("betas")
    direction = make(**settings, rules=case.config.optim.rules)

    @jax.jit
    def step(weights, optimizer):
        def loss(params):
            model = merge_model(case.graph, weights | {"params": params})
            total, parts = segmentation_loss(
                model,
                image,
                label,
                key=jax.random.key(0),  # nothing is random: rates are 0, the bases given
                objective=build_objective(case.config),
                auxiliary_weight=0.4,
            )
            return total, (parts, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (total, (parts, stats)), grads = jax.value_and_grad(loss, has_aux=True)(weights["params"])
        updates, optimizer = direction.update(grads, optimizer, weights["params"])
        params = jax.tree.map(lambda p, u: p - lr * u, weights["params"], updates)
        return {"params": params, "batch_stats": stats}, optimizer, parts | {"total": total}, grads

    return step, direction.init(wide(case.weights)["params"])


def check_first_step(case, weights, parts, grads):
    ours = {"decode.loss_ce": parts["loss_decode"], "decode.acc_seg": parts["accuracy"], "total": parts["total"]}
    ours["aux.loss_ce"] = parts["loss_auxiliary"]
    for name, theirs in zip(case.meta["loss"], case["loss"], strict=True):
        bound = 1e-5 if name == "decode.acc_seg" else 1e-12  # upstream finds the accuracy in float32
        assert abs(ours[name] - theirs) < bound, name
    names, count = case.arrays["names"], case.meta["values"]["grad"]
    assert relative(case.summaries(grads, names, count), case["grad"]) < 1e-9
    names, count = case.arrays["bn_names"], case.meta["values"]["bn_after"]
    if len(names):
        assert relative(case.summaries(weights["batch_stats"], names, count), case["bn_after"]) < 1e-12


def test_activations(case):
    """Stages, logits and auxiliary logits: float32 to 1e-5, float64 to 1e-12."""
    image = case.image("eval")
    assert relative(activations(case, case.weights, image), case["eval"]) < 1e-5
    assert relative(activations(case, wide(case.weights), image.astype(float)), case["eval"]) < 1e-12


def test_training(case):
    """Losses, gradients, running statistics of one step, and the losses and parameters of six."""
    step, optimizer = make_step(case)
    weights, totals = wide(case.weights), []
    for i in range(len(case["steps"])):
        weights, optimizer, parts, grads = step(weights, optimizer)
        totals.append(float(parts["total"]))
        if i == 0:
            check_first_step(case, weights, parts, grads)
    np.testing.assert_allclose(totals, case["steps"], rtol=0, atol=1e-12)
    found = by_upstream_name(weights["params"])
    norms = [np.linalg.norm(found[name]) for name in case.arrays["names"]]
    # Adam divides a gradient that is 0 but for rounding by another: such a bias moves by chance, here 1e-8 of its norm.
    np.testing.assert_allclose(norms, case["params"], rtol=1e-8 if "adamw" in case.meta else 1e-10)


def test_parameter_groups(case):
    """The factors of learning rate and weight decay of every parameter are those of upstream's optimiser."""
    params = case.weights["params"]
    spread = (
        jax.tree.map(lambda p, f: np.full(p.shape, f), params, factors)
        for factors in optim.parameter_factors(params, case.config.optim.rules)
    )
    rates, decays = map(by_upstream_name, spread)
    ours = np.array([(rates[name].flat[0], decays[name].flat[0]) for name in case.arrays["names"]])
    np.testing.assert_allclose(ours, case.arrays.get("groups", np.ones_like(ours)), rtol=1e-12)


def test_full_size(full_case):
    """Parameters, stages and logits of the published networks."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(full_case.weights["params"]))
    assert parameters == full_case.meta["parameters"]
    image = full_case.image("eval").astype(float)
    assert relative(activations(full_case, wide(full_case.weights), image), full_case["eval"]) < 1e-12


@pytest.mark.slow
def test_full_size_in_float32(full_case):
    """As far from float64 as upstream's float32 is, times 4."""
    noise = full_case.meta["cases"][full_case.part]["float32_noise"]
    ours = activations(full_case, full_case.weights, full_case.image("eval"))
    for name, row, theirs in zip(full_case.meta["eval"], ours, full_case["eval"], strict=True):
        assert relative(row, theirs) < 4 * noise[name], name


@pytest.mark.slow
def test_full_size_gradients(full_case):
    step, optimizer = make_step(full_case)
    weights, _, parts, grads = step(wide(full_case.weights), optimizer)
    check_first_step(full_case, weights, parts, grads)
