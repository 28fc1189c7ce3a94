import itertools

import pytest

from obsdiff.architectures import find_blocks
from obsdiff.config import PruningConfig
from obsdiff.errors import UserError
from obsdiff.packages import GIB, plan_packages, select, select_groups
from obsdiff.surgery import layer_shapes

from .conftest import sd3

LINEARS = layer_shapes(sd3().transformer)
BLOCKS = find_blocks(LINEARS)


def layers(config: PruningConfig) -> list[str]:
    return [x for unit in select(BLOCKS, config, LINEARS) for tap in unit for x in tap.layers]


def test_target_blocks_include_and_exclude_narrow():
    assert len(layers(PruningConfig())) == 33
    assert len(layers(PruningConfig(target="ffn"))) == 4 + 4 + 2
    assert len(layers(PruningConfig(target="attention"))) == 8 + 8 + 7
    assert {x.split(".")[1] for x in layers(PruningConfig(blocks="1-2"))} == {"1", "2"}
    assert layers(PruningConfig(include="*.2.ff.net.2")) == ["transformer_blocks.2.ff.net.2"]
    assert layers(PruningConfig(blocks="0", exclude=("*attn*", "*context*"))) == ["transformer_blocks.0.ff.net.0.proj", "transformer_blocks.0.ff.net.2"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"blocks": "1-3"}, "0-2"),
        ({"include": "*.conv*"}, "*.conv*"),
        ({"include": "*.attn.*", "target": "ffn"}, "nothing is left"),
        ({"pattern": "2:5"}, "transformer_blocks.0.attn.to_q has 32 input columns"),
    ],
)
def test_what_fits_no_layer_is_refused(settings, words):
    with pytest.raises(UserError) as error:
        select(BLOCKS, PruningConfig(**settings), LINEARS)
    assert words in str(error.value)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 12])
def test_packages_are_consecutive_units_that_cover_everything_once(count):
    units = select(BLOCKS, PruningConfig(), LINEARS)
    packages = plan_packages(units, LINEARS, PruningConfig(packages=count))
    assert len(packages) == count
    assert [x for p in packages for x in p.layers] == layers(PruningConfig())


def test_replays_packages_end_where_blocks_end_if_there_are_enough():
    units = select(BLOCKS, PruningConfig(), LINEARS)
    for count, sizes in {2: [4, 8], 3: [4, 4, 4], 4: [3, 3, 3, 3]}.items():
        packages = plan_packages(units, LINEARS, PruningConfig(packages=count, calibration="replay"))
        assert [x for p in packages for x in p.layers] == layers(PruningConfig())
        assert [sum(unit[0] in p.taps for unit in units) for p in packages] == sizes


def test_four_by_default_fewer_where_there_are_fewer_units():
    units = select(BLOCKS, PruningConfig(), LINEARS)
    assert len(plan_packages(units, LINEARS, PruningConfig())) == 4
    assert len(plan_packages(units, LINEARS, PruningConfig(method="magnitude"))) == 1  # its choice needs no Hessian
    assert len(plan_packages(select(BLOCKS, PruningConfig(blocks="1", target="ffn"), LINEARS), LINEARS, PruningConfig())) == 2
    with pytest.raises(UserError, match="12 basic units, found 13"):
        plan_packages(units, LINEARS, PruningConfig(packages=13))


def test_a_budget_is_kept_with_as_few_packages_as_it_allows():
    units = select(BLOCKS, PruningConfig(), LINEARS)
    largest = 2 * 8 * (128 * 128 + 128)  # both streams' FFN down projections
    budget = largest / GIB
    packages = plan_packages(units, LINEARS, PruningConfig(memory_budget_gib=budget))
    assert max(p.hessian_bytes for p in packages) <= largest
    assert [x for p in packages for x in p.layers] == layers(PruningConfig())
    for one, two in itertools.pairwise(packages):
        assert one.hessian_bytes + two.hessian_bytes > largest
    split = plan_packages(units, LINEARS, PruningConfig(memory_budget_gib=budget / 2))  # the largest units fall into their taps
    assert max(p.hessian_bytes for p in split) <= largest / 2
    assert len(plan_packages(units, LINEARS, PruningConfig(memory_budget_gib=1.0))) == 1


def test_a_budget_below_one_hessian_names_the_layer():
    with pytest.raises(UserError, match=r"Hessian of transformer_blocks\.0\.ff\.net\.2 alone"):
        plan_packages(select(BLOCKS, PruningConfig(target="ffn", include="*net.2"), LINEARS), LINEARS, PruningConfig(memory_budget_gib=1e-6))


def test_excluding_one_consumer_of_a_group_excludes_the_group():
    """Joint attention: both output projections lose the same heads, so neither can be left out alone."""
    config = PruningConfig(pattern="structured", exclude=("*.to_add_out",))
    linears = layer_shapes(sd3().transformer)
    blocks = find_blocks(linears)
    assert {group.kind for group in select_groups(blocks, config)} == {"neurons"}
    assert not [layer for unit in select(blocks, config, linears) for tap in unit for layer in tap.layers if "attn" in layer]
    included = PruningConfig(pattern="structured", include=("*.to_add_out",))
    assert {layer.split(".", 2)[2] for g in select_groups(blocks, included) for layer in g.consumers} == {"attn.to_out.0", "attn.to_add_out"}
