"""From a study file to cells: what its grids name, in their order, and what is wrong with one said in a line."""

import pytest
from tiny import tiny_config

from cropjax.errors import UserError
from cropjax.study.plan import ALL, NETWORK, new_study, read_plan


def crops(*sides):
    return {str(side): dict(data=dict(crop_size=(side, side))) for side in sides}


def a_study(**changes):
    study = new_study("A study")
    study.networks = {"PSPNet": tiny_config("pspnet"), "SegFormer": tiny_config("segformer")}
    study.factors = {
        "crop": crops(33, 49),
        "batch": {"4": {}, "2": dict(train=dict(batch_size=2))},
        "rate": {"fixed": {}, "linear": lambda config: dict(optim=dict(lr=config.train.batch_size * 0.01))},
    }
    study.grids = ({"crop": ALL, "batch": ALL},)
    study.tests = {
        "whole": dict(eval=dict(modes=("whole",))),
        "pools": dict(eval=dict(modes=("whole",), pool_window=(32, 32))),
    }
    study.update(changes)
    return study


def names(study):
    return [cell.name for cell in read_plan(study).cells]


def test_cells_are_those_of_the_grids_in_their_order_and_each_once():
    study = a_study(grids=({"network": ("SegFormer",)}, {"crop": ALL}, {"rate": ("linear",), "batch": ("2",)}))
    assert names(study) == [
        "SegFormer,base",
        "PSPNet,base",
        "PSPNet,crop=49",
        "SegFormer,crop=49",
        "PSPNet,batch=2,rate=linear",
        "SegFormer,batch=2,rate=linear",
    ]


def test_a_cell_is_its_networks_config_with_its_levels_one_after_the_other():
    study = a_study(grids=({"network": ("PSPNet",), "crop": ("49",), "batch": ("2",), "rate": ("linear",)},))
    (cell,) = read_plan(study).cells
    assert (cell.config.data.crop_size, cell.config.train.batch_size, cell.config.optim.lr) == ((49, 49), 2, 0.02)
    assert cell.levels == {NETWORK: "PSPNet", "crop": "49", "batch": "2", "rate": "linear"}
    assert study.networks["PSPNet"].optim.lr == 0.01  # as it was


def test_runs_go_cell_by_cell_with_every_seed():
    plan = read_plan(a_study(grids=({"network": ("PSPNet",), "crop": ALL},), seeds=(3, 1)))
    assert [run.name for run in plan.runs] == [
        "PSPNet,base/seed_3",
        "PSPNet,base/seed_1",
        "PSPNet,crop=49/seed_3",
        "PSPNet,crop=49/seed_1",
    ]
    assert [run.config.seed for run in plan.runs] == [3, 1, 3, 1]


def test_a_grid_may_have_seeds_of_its_own():
    both = {"network": ("PSPNet",), "crop": ALL}
    plan = read_plan(a_study(grids=(both, {"network": ("PSPNet",), "seeds": range(3, 5)}), seeds=(0, 3)))
    assert {cell.name: cell.seeds for cell in plan.cells} == {"PSPNet,base": (0, 3, 4), "PSPNet,crop=49": (0, 3)}
    assert [run.seed for run in plan.runs] == [0, 3, 4, 0, 3]


def test_a_cell_has_the_seeds_of_all_its_names():
    study = a_study(
        grids=({"network": ("PSPNet",)}, {"network": ("PSPNet",), "rate": ("linear",), "seeds": (7,)}), seeds=(0,)
    )
    study.networks["PSPNet"].optim.lr = 0.04
    (cell,) = read_plan(study).cells
    assert (cell.seeds, list(cell.aliases)) == ((0, 7), ["PSPNet,rate=linear"])


def test_a_fraction_is_balanced():
    study = a_study()
    fields = dict(
        w=dict(train=dict(steps=8)), x=dict(optim=dict(lr=0.5)), y=crops(49)["49"], z=dict(train=dict(ema=0.5))
    )
    study.factors = {name: {"a": {}, "b": change} for name, change in fields.items()}
    study.networks = {"PSPNet": tiny_config("pspnet")}
    study.grids = (dict.fromkeys("wxyz", ALL) | {"fraction": 2},)
    cells = [cell.levels for cell in read_plan(study).cells]
    assert len(cells) == 8
    for one in "wxyz":
        for other in set("wxyz") - {one}:
            assert sum(cell[one] == "b" and cell[other] == "b" for cell in cells) == 2


def test_pooled_windows_are_tests_of_networks_that_pool():
    plan = read_plan(a_study())
    tests = {cell.levels[NETWORK]: list(cell.tests) for cell in plan.cells}
    assert tests == {"PSPNet": ["whole", "pools"], "SegFormer": ["whole"]}
    assert plan.cells[0].tests["pools"].eval.pool_window == (32, 32)


def test_levels_that_come_to_one_config_are_one_cell_under_its_simplest_name():
    plan = read_plan(
        a_study(grids=({"network": ("PSPNet",), "rate": ("linear",), "batch": ALL}, {"network": ("PSPNet",)}))
    )
    assert [cell.name for cell in plan.cells] == ["PSPNet,rate=linear", "PSPNet,batch=2,rate=linear", "PSPNet,base"]
    study = a_study(grids=({"network": ("PSPNet",), "rate": ("linear",), "batch": ALL}, {"network": ("PSPNet",)}))
    study.networks["PSPNet"].optim.lr = 0.04  # of a batch of 4
    base, two = read_plan(study).cells
    assert (base.name, two.name) == ("PSPNet,base", "PSPNet,batch=2,rate=linear")
    assert [levels["rate"] for levels in base.combinations] == ["fixed", "linear"]
    assert base.config.optim.lr == 0.04
    assert two.aliases == {}
    assert list(base.aliases) == ["PSPNet,rate=linear"]


def test_what_is_left_of_reckoning_makes_no_cell():
    study = a_study(grids=({"network": ("PSPNet",), "rate": ALL},))
    rate = {"fixed": {}, "linear": lambda config: dict(optim=dict(lr=config.optim.lr * 6 / 6))}
    study.networks["PSPNet"].optim.lr = 0.1
    study.factors = dict(study.factors) | {"rate": rate}
    assert 0.1 * 6 / 6 != 0.1
    assert names(study) == ["PSPNet,base"]
    study.grids = ({"network": ("PSPNet",), "rate": ("linear",)}, *study.grids)
    (cell,) = read_plan(study).cells
    assert (cell.name, cell.config.optim.lr) == ("PSPNet,base", 0.1)  # whatever the order


def test_networks_of_one_config_stay_two():
    config = tiny_config("pspnet")
    study = a_study(networks={"one": config, "other": config.copy_and_resolve_references()}, grids=({},))
    assert names(study) == ["one,base", "other,base"]


def test_a_factor_that_comes_later_leaves_the_names():
    before, study = names(a_study()), a_study()
    study.factors = dict(study.factors) | {"padding": {"zeros": {}, "reflect": {}}}
    assert names(study) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(networks={}), "networks is empty"),
        (dict(seeds=()), r"seeds = \(\) must be different whole numbers"),
        (dict(seeds=(1, 1)), "seeds = .* must be different"),
        (dict(grids=({}, {"seeds": (1, 1)})), r"grids\[1\]: seeds = \(1, 1\) must be different"),
        (dict(grids=({"seeds": 5},)), r"grids\[0\]: seeds = 5 must be different whole numbers"),
        (dict(grids=()), "grids is empty"),
        (
            dict(grids=({"crops": ALL},)),
            r"grids\[0\]: there is no factor 'crops'; there are network, crop, batch, rate",
        ),
        (dict(grids=({}, {"crop": ("7",)})), r"grids\[1\]: crop has no level '7'; it has 33, 49"),
        (dict(grids=({"crop": ALL, "fraction": 0},)), "fraction = 0 must be a whole number from 1"),
        (dict(grids=({"crop": ALL, "fraction": 3},)), "fraction = 3 is of factors with 3 levels, and crop has 2"),
        (dict(factors={"crop": {}}), "factors.crop has no levels"),
        (
            dict(factors={"crop": {"7": dict(data=dict(crop=7))}}, grids=({},)),
            r"factors\['crop'\]\['7'\] with PSPNet: .*crop",
        ),
        (
            dict(factors={"crop": {"7": lambda config: config.no_such}}, grids=({},)),
            r"factors\['crop'\]\['7'\] with PSPNet: .*no_such",
        ),
        (
            dict(factors={"crop": {"0": dict(data=dict(crop_size=(0, 0)))}}, grids=({},)),
            "PSPNet, 0: data.crop_size = .* must be",
        ),
        (
            dict(factors={"crop": {"a/b": {}, "c": {}, "a?b": {}}}, grids=({"network": ("PSPNet",), "crop": ("c",)},)),
            None,
        ),
        (
            dict(
                factors={"crop": {"c": {}} | dict(zip(("a/b", "a?b"), crops(41, 49).values(), strict=True))},
                grids=({"crop": ALL},),
            ),
            "two cells .* PSPNet,crop=a_b",
        ),
        (dict(tests={"both": dict(eval=dict(modes=("whole", "slide")))}), r"tests\['both'\] of .* must be one mode"),
        (dict(tests={"wrong": dict(eval=dict(mode="whole"))}), r"tests\['wrong'\].*mode"),
        (dict(contrast=("crop", "33", "7")), "contrast = .* must be a factor and two of its levels"),
        (dict(contrast=("crop",)), "contrast = .* must be a factor and two of its levels"),
        (dict(contrast=("crop", "33", "49", "33")), "contrast = .* must be a factor and two of its levels"),
        (dict(contrast=("crop", "33", "33")), "contrast = .* must be a factor and two of its levels"),
        (dict(seeds=("0", "1")), "seeds = .* must be different whole numbers"),
        (dict(tests={}), "tests is empty"),
        (dict(tests={"other": dict(train=dict(steps=3))}), r"tests\['other'\] of .* alone, and not train.steps"),
        (dict(factors={"test": {"a": {}}}, grids=({},)), "factors.test: the name has a meaning of its own"),
        (dict(grids=({"crop": "49"},)), r"grids\[0\]: crop = '49' must be a tuple of levels, \('49',\)"),
        (dict(grids=({"crop": 33},)), r"grids\[0\]: crop = 33 must be a tuple of levels, \('33',\)"),
        (dict(factors={"crop": {33: {}}}, grids=({},)), r"factors.crop: 33 must be text, '33'"),
        (dict(networks={1: tiny_config("pspnet")}, grids=({},)), r"factors.network: 1 must be text, '1'"),
        (dict(contrast=("crop", ["33"], "49")), "contrast = .* must be a factor and two of its levels"),
        (dict(factors={"x": {"a": {}, "b": dict(seed=3)}}, grids=({"x": ALL},)), "a level changes the seed"),
        (
            dict(tests={"pools": dict(eval=dict(modes=("whole",), pool_window=(32, 32)))}),
            "SegFormer,base has no test: name one without",
        ),
        (dict(published=(({"crop": "33"}, "whole", 57.64),)), r"published\[0\] = .* must be a cell of the study's"),
        (dict(published=({"crop": "33"}, "whole", 57.64, "x")), r"published\[0\] = .* must be a cell of the study's"),
        (dict(published=(({"crops": "33"}, "", 57.64, "x"),)), r"published\[0\] = .* must be a cell of the study's"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    if message is None:
        read_plan(a_study(**changes))
        return
    with pytest.raises(UserError, match=message):
        read_plan(a_study(**changes))


def test_a_config_of_a_run_is_no_study():
    with pytest.raises(UserError, match=r"this is no study \(there is no field 'data'\)"):
        read_plan(tiny_config())
