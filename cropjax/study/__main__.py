"""Runs a study: what is left of its grid, then the report of all that is there.

    python -m cropjax.study --config configs/studies/demo.py [--workdir DIR] [--only 'PSPNet*'] [--dry_run]

The same command goes on where it was stopped, and may be started several times at once: each process takes the next run
that nobody is at. Results are kept in --results, a small file a run; a run whose file is there is never made again. The
report is written to the work folder.
"""

import fnmatch

from absl import flags

from cropjax import commandline
from cropjax.errors import UserError

ONLY = flags.DEFINE_multi_string("only", [], "Pattern of the runs to make, as 'PSPNet*' or '*/seed_0'; default: all.")
DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Say what the study is, what it costs and what it mixes up.")
REPORT_ONLY = flags.DEFINE_boolean("report_only", False, "Write the report of what is there, and run nothing.")
RESULTS = flags.DEFINE_string("results", None, "The folder of the results; default: <workdir>/results.")
BENCHMARK = flags.DEFINE_list("benchmark", [], "Files of cropjax.benchmark --json for the hours of --dry_run.")


def study(plan, workdir):
    """The command. Returns the exit status: 2 if runs failed, and would again."""
    from cropjax.config import build_source
    from cropjax.study.cost import paces, paces_of_runs
    from cropjax.study.overview import overview
    from cropjax.study.report import write_report
    from cropjax.study.results import Results
    from cropjax.study.work import work
    from cropjax.workdir import locked

    runs = chosen(plan.runs, ONLY.value)
    results = Results(RESULTS.value or workdir / "results")
    for path in results.strays(plan.runs):
        commandline.complain(f"{path} is of no run of the study: rename it as its cell is called now, or remove it")
    if DRY_RUN.value:
        source = build_source(plan.cells[0].config, "train")
        about = {"size": source[0]["label"].shape, "images": len(source)}
        found = [(run, result) for run in plan.runs if (result := results.get(run))]
        known, machine = paces(BENCHMARK.value, plan) if BENCHMARK.value else paces_of_runs(found)
        done = {run.name for run in runs if not results.lacks(run)}
        print(overview(plan, runs, done, paces=known, machine=machine, **about))
        return 0
    failed = {} if REPORT_ONLY.value else work(runs, workdir, results)
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir / "report.lock", wait=True):
        write_report(plan, results, workdir)
    for name, why in failed.items():
        commandline.complain(f"{name} has no results: {why}")
    return 2 if failed else 0


def chosen(runs, patterns):
    """Those of `runs` whose name, or the cell's, or an alias of it matches one of `patterns`; all without any."""
    for pattern in patterns:
        if not any(_matches(run, pattern) for run in runs):
            names = ", ".join(dict.fromkeys(run.cell.name for run in runs))
            raise UserError(f"--only={pattern} matches no run; the cells are {names}, and runs CELL/seed_N")
    return [run for run in runs if not patterns or any(_matches(run, pattern) for pattern in patterns)]


def _matches(run, pattern):
    names = (run.cell.name, *run.cell.aliases)
    return any(fnmatch.fnmatchcase(one, pattern) for name in names for one in (name, f"{name}/seed_{run.seed}"))


if __name__ == "__main__":
    from cropjax.study.plan import read_plan

    commandline.run(study, read=read_plan)
