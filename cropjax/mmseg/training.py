"""Their optimiser, schedule, evaluation and hooks."""

from cropjax.config import set_optimizer
from cropjax.mmseg import settings

SCORES = {"mIoU": "miou", "auto": "miou", "mAcc": "macc", "aAcc": "aacc"}


def optimizer(m):
    """The optimiser, its factors for some parameters, and mixed precision."""
    at = "optim_wrapper"
    m.fix(at, at)
    kind = m.take(f"{at}.type", "OptimWrapper")
    if kind == "AmpOptimWrapper":
        m.take(f"{at}.loss_scale")
        if m.take(f"{at}.dtype", "float16") == "bfloat16":
            m.put(f"{at}.dtype", "train.dtype", "bfloat16")
        else:
            m.leave(f"{at}.type", "float16 is not used: train.dtype = 'bfloat16' is the mixed precision here")
    elif kind != "OptimWrapper":
        m.leave(f"{at}.type", "there is no such wrapper")
    kind = m.theirs.look(f"{at}.optimizer.type")
    if kind in settings.OPTIMIZERS:
        m.take(f"{at}.optimizer.type")
        _optimizer_is(m, settings.OPTIMIZERS[kind])
        m.move(kind)
        m.fix(kind, f"{at}.optimizer")
    rules = []
    for text, factors in m.take(f"{at}.paramwise_cfg.custom_keys", {}).items():
        match factors:
            case {**known} if known.keys() <= {"lr_mult", "decay_mult"}:
                rules.append((text, known.get("lr_mult", 1.0), known.get("decay_mult", 1.0)))
            case _:
                m.leave(f"{at}.paramwise_cfg.custom_keys.{text}", "optim.rules know lr_mult and decay_mult", factors)
    m.put(f"{at}.paramwise_cfg.custom_keys", "optim.rules", tuple(rules))


def _optimizer_is(m, name):
    if name != m.config.optim.name:
        set_optimizer(m.config, name)
        m.out.moved.append(
            ("optim_wrapper.optimizer.type", m.theirs.look("optim_wrapper.optimizer.type"), "optim.name", name)
        )


def schedule(m):
    """The steps and the learning rate's way through them."""
    at = "param_scheduler"
    m.fix("train_cfg", "train_cfg")
    m.move("train_cfg")
    steps = m.config.train.steps
    warmup = 0
    if m.has("LinearLR", at):
        warmup = m.take(f"{at}.LinearLR.end", int)
        m.put(f"{at}.LinearLR.start_factor", "optim.warmup_factor", m.take(f"{at}.LinearLR.start_factor", 1 / 3))
    m.put(f"{at}.LinearLR.end", "optim.warmup_steps", warmup)
    if m.has("PolyLR", at):
        m.put(f"{at}.PolyLR.power", "optim.power", m.take(f"{at}.PolyLR.power", 1.0))
        m.put(f"{at}.PolyLR.eta_min", "optim.min_lr", m.take(f"{at}.PolyLR.eta_min", 0.0))
        m.expect(f"{at}.PolyLR.begin", 0, warmup, f"the decay begins where the warm-up ends, at {warmup}")
        m.expect(f"{at}.PolyLR.end", None, steps, f"the decay ends with training, at {steps}")
    elif not any(name.startswith(at) for name, _ in m.theirs.left()):
        m.put(at, "optim.power", 0.0)  # the learning rate stays as it is


def evaluation(m):
    """How validation is done and what makes the best checkpoint."""
    at = "model.test_cfg"
    mode = m.take(f"{at}.mode", "whole")
    m.put(f"{at}.mode", "eval.modes", (mode,))
    for name, ours in (("crop_size", "eval.window"), ("stride", "eval.stride")):
        if mode == "slide":
            m.put(f"{at}.{name}", ours, m.pair(f"{at}.{name}"))
        elif m.take(f"{at}.{name}") is not None:
            m.out.idle.append(f"{at}.{name}")
    m.fix("val_evaluator", "val_evaluator")
    name = "default_hooks.checkpoint.save_best"
    best = m.take(name) or "mIoU"
    best = best[0] if isinstance(best, tuple) else best
    if best not in SCORES:
        m.leave(name, f"the best is one of {', '.join(SCORES)}")
    m.put(name, "eval.best", f"{mode}/{SCORES.get(best, 'miou')}")


def hooks(m):
    """What is logged, saved and averaged, and the seed."""
    every = {"default_hooks.logger": "train.log_every", "default_hooks.checkpoint": "train.checkpoint_every"}
    for hook, ours in every.items():
        if m.take(f"{hook}.by_epoch", False):
            m.leave(f"{hook}.by_epoch", f"it is counted in steps here: {ours} stays {m.get(ours)}")
            m.take(f"{hook}.interval")
            continue
        interval = m.take(f"{hook}.interval", m.get(ours))
        # Each evaluation saves as well, so that saves at evaluations alone say nothing against ours between them.
        if ours == "train.log_every" or interval != m.config.eval.every:
            m.put(f"{hook}.interval", ours, interval)
        else:
            m.out.same.append(f"{hook}.interval")
    if m.take("custom_hooks.EMAHook.type") is not None:
        m.take("custom_hooks.EMAHook.priority")
        m.put("custom_hooks.EMAHook.momentum", "train.ema", m.take("custom_hooks.EMAHook.momentum", 0.0002))
    m.put("randomness.seed", "seed", m.take("randomness.seed") or 0)
