import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from segsweep.axes import axes_of, product
from segsweep.run import ConfigError

parse = OverridesParser.create().parse_override


def rows(*overrides, zipped=()):
    return [list(row.values()) for row in product(axes_of(overrides, parse), zipped)]


def test_values_are_crossed_and_the_last_axis_moves_fastest():
    expected = [
        ["model=unet", "seed=0"],
        ["model=unet", "seed=1"],
        ["model=reseg", "seed=0"],
        ["model=reseg", "seed=1"],
    ]
    assert rows("model=unet,reseg", "seed=range(0,2)") == expected


def test_the_last_override_of_a_key_counts():
    assert rows("seed=0,1,2", "model=unet", "seed=5") == [["seed=5", "model=unet"]]


def test_a_choice_of_one_is_a_single_value():
    axes = axes_of(["model=choice(unet)", "seed=0,1"], parse)
    assert [(axis.key, axis.varies) for axis in axes] == [("model", False), ("seed", True)]


def test_lists_and_quoted_values_stay_as_they_are():
    assert rows("data.size=[48,48],[64,64]", "name='a,b'") == [
        ["data.size=[48,48]", "name='a,b'"],
        ["data.size=[64,64]", "name='a,b'"],
    ]


def test_zipped_values_go_together():
    zipped = rows("model=unet,reseg", "seed=0,1", "optimizer.lr=1,2", zipped=[["optimizer.lr", "model"]])
    assert [row[0] + row[2] for row in zipped] == [
        "model=unetoptimizer.lr=1",
        "model=unetoptimizer.lr=1",
        "model=resegoptimizer.lr=2",
        "model=resegoptimizer.lr=2",
    ]


@pytest.mark.parametrize(
    ("overrides", "zipped", "message"),
    [
        (["model=a,b", "seed=0,1,2"], [["model", "seed"]], "model has 2, seed has 3"),
        (["model=a,b", "seed=0"], [["model", "seed"]], "seed is not swept"),
        (["model=a,b", "seed=0,1"], [["modell", "seed"]], "Did you mean 'model'"),
        (["model=a,b", "seed=0,1"], [["model", "seed"], ["seed", "model"]], "stands in it twice"),
        (["model=a,b"], ["model", "seed"], r"Write sweep\.zip=\[\[model,seed\]\]"),
        (["model=a,b"], "abc", r"sweep\.zip=abc is no list of groups of keys. Write sweep\.zip=\[\[a,b\]\]"),
        (["model=a,b"], 5, r"sweep\.zip=5 is no list"),
        (["model=a,b"], [[1, "model"]], r"sweep\.zip=\[\[1,model\]\] is no list"),
        (["model=a,b"], {"model": "seed"}, r"sweep\.zip=\{model:seed\} is no list"),
        (["optimizer.lr=interval(0,1)"], [], "a grid needs single values"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(overrides, zipped, message):
    with pytest.raises(ConfigError, match=message):
        rows(*overrides, zipped=zipped)
