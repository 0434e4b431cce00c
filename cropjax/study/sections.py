"""The sections of a study's report, one function each, of what was `Found`.

Scores are mIoU in percent. Every row names the levels of its cell, of which the table of conditions says everything.
"""

import itertools
from pathlib import Path

import numpy as np

from cropjax.evaluation.report import looks
from cropjax.pages.section import Section, Table
from cropjax.study import figures
from cropjax.study.conditions import conditions, warnings
from cropjax.study.effects import differences, estimate, interactions, with_level, without
from cropjax.study.found import TEST
from cropjax.study.plan import NETWORK
from cropjax.study.work import PICTURES

HOW_SURE = (
    "Intervals are of 95 %, over seeds: t is Student's, of the seeds' means; bootstrap is of the mean of seeds drawn "
    "with replacement, too narrow where there are three. Two runs are compared that have the same seed, the same test, "
    "and the same level of everything but the factor. Where t does not leave 0 out, the sign is not known; of twenty "
    "effects that are none, one has a sign all the same. What other images would say is in no interval."
)
SURE = ("t low", "t high", "bootstrap low", "bootstrap high", "seeds")
COUNTED = (*SURE, "contexts", "pairs")


def contrast(found):
    """The study's own table: two levels of a factor and their difference, with what others say beside it."""
    if not found.plan.contrast:
        return
    factor, low, high = found.plan.contrast
    sides = {}  # what is at the two levels, and the contexts that say so
    for levels in found.cells:
        both = tuple(found.cells.get(with_level(levels, factor, level)) for level in (low, high))
        if both[0] != both[1]:
            sides.setdefault(both, []).append(without(levels, factor))
    whole = {cell for both in sides if None not in both for cell in both}
    rows = []
    for both, contexts in sides.items():
        if None in both and whole.intersection(both):
            continue
        context = contexts[0]
        at = [_by_seed(found.scores, cell) for cell in both]
        if shared := at[0].keys() & at[1].keys():
            at = [{seed: one[seed] for seed in shared} for one in at]  # so that the row adds up
        one = estimate({((), seed): at[1][seed] - at[0][seed] for seed in shared})
        published = "; ".join(
            dict.fromkeys(text for one in contexts for text in _published(found.plan, one, factor, (low, high)))
        )
        rows.append((*_levels(found, context, factor), dict(context)[TEST], *map(_mean, at), *_sure(one), published))
    names = [name for name in found.columns() if name != factor]
    columns = (*names, TEST, f"{factor} {low}", f"{factor} {high}", "difference", *SURE, "published")
    words = f"Mean mIoU over seeds, in percent, at {factor} {low} and {high}."
    table = Table("contrast", columns, tuple(rows))
    drawn = figures.differences(found, factor, low, high)
    yield Section(
        f"{factor.capitalize()} {low} and {high}",
        words,
        (table,),
        drawn,
        f"Every pair of runs that differ in {factor} alone is a dot; the line is Student's interval over seeds.",
    )


def in_short(found, worth):
    """The effects `worth`, as `Found.main_effects`, in sentences: of the first test all, of others what is sure."""
    first, *rest = found.plan.tests
    sentences = {}
    for network, test, factor, low, high, one in worth:
        of_tests = factor == TEST and low == first
        if of_tests or (factor != TEST and (test == first or one.is_clear)):
            about = (test, factor) if factor != TEST else (TEST, high)
            sentences.setdefault(about, []).append(f"{network} {low} to {high} {_in_words(one)}")
    order = [(first, name) for name in found.factors] + [(TEST, test) for test in rest]
    order += [(test, name) for test in rest for name in found.factors]
    lines = [
        f"{about[0] if about[0] == TEST else ', '.join(about)}: {'; '.join(sentences[about])}."
        for about in order
        if about in sentences
    ]
    words = (
        f"Points of mIoU, over all cells that differ in nothing else. Under other tests than {first} only those "
        "effects are here whose sign is known."
    )
    return Section("In short", "\n\n".join([words, *lines, HOW_SURE]))


def _in_words(one):
    low, high = one.t
    how = "; fitted" if not one.pairs else f"; mean of {one.contexts} contexts" if one.contexts > 1 else ""
    if not np.isfinite(low):
        return f"{one.mean:+.1f} (one seed{how})"
    return f"{one.mean:+.1f} ({low:+.1f} to {high:+.1f}{'' if one.is_clear else ', sign not known'}{how})"


def everything(found):
    """Every cell under every test."""
    tests = [test for test in found.plan.tests if found.of(**{TEST: test})]
    rows = []
    for cell in dict.fromkeys(without(cell, TEST) for cell, _ in found.scores):
        scores = [_by_seed(found.scores, (*cell, (TEST, test))) for test in tests]
        seeds = len(set().union(*scores))
        rows.append((*found.levels(cell), seeds, *(_spread(values) for values in scores)))
    words = (
        "Mean mIoU over seeds in percent ± standard deviation of one run (n - 1), of the last checkpoint, for every "
        "trained cell (rows) under every test (columns)."
    )
    table = Table("every_cell_and_test", (*found.columns(), "seeds", *tests), tuple(rows))
    return Section("Every cell under every test", words, (table,), *figures.matrix(found, tests))


def effects(found, worth):
    """The effects `worth`, as `Found.main_effects`, in a table, and each context by itself."""
    rows = [(*names, *_sure(one), *_counts(one)) for *names, one in worth]
    factors = found.factors_of_a_network()
    single = [
        (network, test, *effect)
        for network in found.plan.factors[NETWORK]
        for test in found.plan.tests
        for effect in _by_context(found, found.of(network=network, test=test), factors)
    ]
    words = (
        "By how much mIoU, in points, is higher at the second level than at the first, over all cells that differ in "
        "nothing else; 0 pairs: fitted to all cells, as if factors did not act on each other."
    )
    columns = (NETWORK, TEST, "factor", "from", "to", "effect", *COUNTED)
    by_context = (NETWORK, TEST, "factor", "from", "to", "where", "effect", *SURE)
    tables = [Table("effects", columns, tuple(rows))]
    if len(factors) > 1 and single:
        words += (
            " Where contexts are not alike, as a batch at a fixed and at a linear rate, read the second table: it has "
            "each of them by itself, and says what in it is no base."
        )
        tables.append(Table("effects_by_context", by_context, tuple(single)))
    first = next(iter(found.plan.tests))
    shown = [row for row in rows if first in (row[1], row[3])]
    drawn = figures.effects([line for row in shown for line in _lines(row, single)])
    about = f"Under {first}, each context by itself; of the other tests, over all contexts. Student's intervals."
    return Section("What each factor is worth", words, tuple(tables), drawn, about)


def _lines(row, single):
    """What the figure shows of a row of the effects: its contexts, of the table `single`; the row, if it has none."""
    network, _, factor, low, high, *sure = row
    contexts = [one[5:9] for one in single if one[:5] == row[:5]]
    for where, *values in contexts or [("base", *sure[:3])]:
        yield network, f"{factor} {low} to {high}{'' if where == 'base' else f', {where}'}", *values


def _by_context(found, scores, factors):
    """The effects of `factors` on `scores`, each context by itself."""
    for factor, levels in factors.items():
        for low, high in itertools.combinations(levels, 2):
            pairs = differences(scores, found.cells, factor, low, high)
            for context in dict.fromkeys(context for context, _ in pairs):
                one = estimate({key: value for key, value in pairs.items() if key[0] == context})
                yield factor, low, high, found.where(context), *_sure(one)


def interplay(found):
    """By how much one factor's effect changes with another, with the network, and with the test."""
    rows, (first, *rest) = [], found.plan.tests
    factors = found.factors_of_a_network()
    networks = {NETWORK: found.plan.factors[NETWORK]}
    for network in networks[NETWORK]:
        own = found.of(network=network)
        for test in found.plan.tests:
            both = interactions(found.of(own, **{TEST: test}), found.cells, factors)
            rows += [(network, test, *row) for row in _interplay(both)]
        for test in rest:
            both = interactions(own, found.cells, {TEST: (first, test)}, factors)
            rows += [(network, "", *row) for row in _interplay(both)]
    for test in found.plan.tests:
        both = interactions(found.of(**{TEST: test}), found.cells, networks, factors)
        rows += [("", test, *row) for row in _interplay(both)]
    if rows:
        words = (
            "By how many points the effect of one factor is larger at the second level of another, of a network or of "
            "a test, than at the first."
        )
        columns = (NETWORK, TEST, "effect of", "when", "larger by", *COUNTED)
        yield Section("What factors do together", words, (Table("interactions", columns, tuple(rows)),))


def _interplay(both):
    for first, firsts, second, seconds, one in both:
        yield f"{second} {' to '.join(seconds)}", f"{first} {' to '.join(firsts)}", *_sure(one), *_counts(one)


def curves(found):
    """Loss and score while they learnt."""
    words = "Validation mIoU of the test of training, and the training loss, over the steps; a thin line a run."
    return Section(
        "Learning curves", words, (), figures.curves(found), "One colour a cell; the thick line is their mean."
    )


def by_class(found):
    """What the contrast is for each class."""
    if not found.plan.contrast:
        return
    factor, low, high = found.plan.contrast
    classes = list(next(iter(found.runs[0][1]["tests"].values()))["iou"])
    scores = {(name,): found.values(lambda one, name=name: one["iou"][name]) for name in classes}
    words = f"IoU of each class at {factor} {high} less that at {low}, in points, over all other factors."
    table = Table("classes", (NETWORK, TEST, "class", "difference", *COUNTED), tuple(_contrasts(found, scores)))
    yield Section("Class by class", words, (table,))


def by_place(found):
    """The contrast by the size of objects and the distance to the image border."""
    if not found.plan.contrast:
        return
    factor, low, high = found.plan.contrast
    kinds = {"segments": "pixels of a segment", "border_distance": "pixels to the image border"}
    shares = {
        (what, start): found.values(lambda one, kind=kind, start=start: _share(one[kind], start))
        for kind, what in kinds.items()
        for start in _starts(found, kind)
    }
    rows = tuple(_contrasts(found, shares))
    words = (
        f"Share of right pixels at {factor} {high} less that at {low}, in points: in the label's connected segments by "
        f"their size, and by the distance to the image border. A row holds what is `from` or more."
    )
    table = Table("places", (NETWORK, TEST, "by", "from", "difference", *COUNTED), rows)
    first = next(iter(found.plan.tests))
    drawn = figures.places([row for row in rows if row[1] == first])
    about = f"Under {first}: means over pairs; the bands are Student's intervals."
    yield Section("By size and place", words, (table,), drawn, about)


def _contrasts(found, scores):
    """Rows of the contrast in each of `scores`, {(what it is of, ...): values}, network by network and test by test."""
    for network, test in itertools.product(found.plan.factors[NETWORK], found.plan.tests):
        for about, values in scores.items():
            values = found.of(values, network=network, test=test)
            if one := estimate(differences(values, found.cells, *found.plan.contrast)):
                yield network, test, *about, *_sure(one), *_counts(one)


def panels(found, workdir):
    """Pictures of the first seed of each cell, where its run folder is here."""
    shown = [(run, Path(workdir, run.name, PICTURES)) for run, _ in found.runs if run.seed == run.cell.seeds[0]]
    shown = [(run.cell.name, path) for run, path in shown if path.is_file()]
    if shown:
        words = "Validation images, their labels, and what each cell's first seed says of them under the first test."
        yield Section("What they see", words, (), figures.pictures(shown), "Image, label, prediction.")


def all_conditions(found):
    """Everything that training and tests were, and what comparisons mix up."""
    data = found.runs[0][1]["data"]
    each = {run.cell.name: conditions(run.cell.config, **result["data"]) for run, result in found.runs}
    names = list(next(iter(each.values())))
    rows = tuple((cell, *map(str, one.values())) for cell, one in each.items())
    trained = Table("conditions", ("cell", *names), rows)
    tests = {
        (run.cell.levels[NETWORK], test, " ".join(looks(one["conditions"])))
        for run, result in found.runs
        for test, one in result["tests"].items()
    }
    tested = Table("tests", (NETWORK, TEST, "how"), tuple(sorted(tests)))
    warned = [(kind, text) for kind, text in warnings(found.plan, **data)]
    mixed = Table("mixed_up", ("kind", "what"), tuple(warned))
    same = [(run.cell.name, other) for run, _ in found.runs for other in run.cell.aliases]
    same = Table("same_cells", ("cell", "is also"), tuple(dict.fromkeys(same)))
    words = (
        "What the cells differ in, how each test looks at an image, and every field of the configs that decides a "
        "result. The table of what is mixed up lists what changes along with a factor: a confound is a comparison that "
        "cannot be put down to one field. Combinations of levels that come to one config are the same cell: it is run "
        "once, and compared under all its names."
    )
    lacking = Table("missing", ("cell", "runs", "what"), tuple(found.lacking()))
    more = [table for table in (same, lacking) if table.rows]
    return Section("Conditions", words, (trained, tested, mixed, *more, _fields(found)))


def _fields(found):
    """Every field, with the values that it has in the cells of each network."""
    values = {}
    for run, result in found.runs:
        for name, value in result["fields"].items():
            of_network = values.setdefault(name, {}).setdefault(run.cell.levels[NETWORK], {})
            of_network[str(value)] = None
    networks = list(dict.fromkeys(run.cell.levels[NETWORK] for run, _ in found.runs))
    rows = [(name, *(" or ".join(own.get(one, ())) for one in networks)) for name, own in sorted(values.items())]
    return Table("fields", ("field", *networks), tuple(rows))


def _sure(one):
    """Mean, both intervals and the number of seeds of an `Estimate`, or of none."""
    return (None,) * 6 if one is None else (one.mean, *one.t, *one.bootstrap, len(one.by_seed))


def _counts(one):
    return one.contexts, one.pairs


def _by_seed(scores, cell):
    return {seed: value for (other, seed), value in scores.items() if other == cell}


def _levels(found, context, factor):
    return tuple(dict(context)[name] for name in found.columns() if name != factor)


def _mean(by_seed):
    return float(np.mean(list(by_seed.values()))) if by_seed else None


def _spread(by_seed):
    values = list(by_seed.values())
    if not values:
        return None
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def _published(plan, context, factor, levels):
    """What others say of the cells of a row, with who says so; factors that they do not name are at their base."""
    own, bases = dict(context), {name: others[0] for name, others in plan.factors.items()}
    texts = []
    for level in levels:
        here = {name: value for name, value in (own | {factor: level}).items() if name != TEST}
        for wanted, test, score, who in plan.published:
            if test in ("", own[TEST]) and bases | wanted == here:
                texts.append(f"{level}: {score} ({who})")
    return texts


def _starts(found, kind):
    return sorted({one["from"] for _, result in found.runs for test in result["tests"].values() for one in test[kind]})


def _share(bins, start):
    return next((one["right"] / one["pixels"] for one in bins if one["from"] == start), None)
