"""The folder of a run without the training: its config, and one checkpoint of weights as they were drawn."""

from cropjax.checkpoint import Checkpoints
from cropjax.config import build_model, build_optimizer
from cropjax.sharding import make_mesh
from cropjax.step import create_state, split_model
from cropjax.workdir import prepare

STEP = 2


def save_run(workdir, config):
    """Makes `workdir` the folder of a run of `config` whose best checkpoint is that of step `STEP`; returns it."""
    prepare(workdir, config).close()
    _, weights = split_model(build_model(config))
    direction, _ = build_optimizer(config)
    checkpoints = Checkpoints(workdir / "checkpoints", best=config.eval.best)
    checkpoints.save(STEP, create_state(weights, direction, make_mesh(data=-1, space=-1)))
    checkpoints.add_metrics(STEP, {config.eval.best: 0.5})
    checkpoints.close()
    return workdir
