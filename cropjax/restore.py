"""A trained network out of its run folder."""

import jax

from cropjax import workdir as run_folder
from cropjax.checkpoint import Checkpoints
from cropjax.config import build_model, build_optimizer
from cropjax.errors import UserError
from cropjax.norm_statistics import estimate_statistics
from cropjax.sharding import replicated
from cropjax.step import abstract_state, split_model, weights_of


def restore_run(config, workdir, which, mesh):
    """The step, the network's structure and the state of a checkpoint of the run in `workdir`, on `mesh`.

    `which` is "best", by the run's own `eval.best`, "latest", or a step as text. BatchNorm's statistics are those of
    training, or with `eval.norm_images` new ones.

    Raises:
        UserError: another word, no such checkpoint, or a run of another network than the config's.
    """
    if which not in ("best", "latest") and not which.isdecimal():
        raise UserError(f"--checkpoint={which} is not best, latest or a step")
    nothing = UserError(f"{workdir} has no checkpoint: train first, with cropjax.main and the same --workdir")
    if not (workdir / "checkpoints").is_dir():
        raise nothing
    run_folder.check_network(workdir, config)
    graph, weights = split_model(build_model(config))
    run = run_folder.run_config(workdir)
    direction, _ = build_optimizer(run)  # the state is that of the run's training, whatever is asked of it now
    template = abstract_state(weights, direction, mesh, ema=bool(run.train.ema))
    checkpoints = Checkpoints(workdir / "checkpoints", best=run.eval.best)
    restored = checkpoints.restore(template, int(which) if which.isdecimal() else which)
    checkpoints.close()
    if restored is None:
        raise nothing
    step, state = restored
    if config.eval.norm_images:
        statistics = estimate_statistics(config, jax.device_get(weights_of(state)), config.eval.norm_images)
        state["batch_stats"] = jax.device_put(statistics, replicated(mesh))
    return step, graph, state
