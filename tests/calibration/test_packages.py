import itertools

import pytest

from obsdiff.calibration.packages import GIB, passes, plan_packages, scratch_room, work_bytes
from obsdiff.calibration.selection import select, select_groups
from obsdiff.config import PruningConfig
from obsdiff.errors import UserError
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes

from ..conftest import sd3

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
    assert layers(PruningConfig(blocks="0", exclude=("*attn*", "*context*"))) == [
        "transformer_blocks.0.ff.net.0.proj",
        "transformer_blocks.0.ff.net.2",
    ]


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
    packages = plan_packages(BLOCKS, LINEARS, PruningConfig(packages=count))
    assert len(packages) == count
    assert [x for p in packages for x in p.layers] == layers(PruningConfig())


def test_replays_packages_end_where_blocks_end_if_there_are_enough():
    units = select(BLOCKS, PruningConfig(), LINEARS)
    for count, sizes in {2: [4, 8], 3: [4, 4, 4], 4: [3, 3, 3, 3]}.items():
        packages = plan_packages(
            BLOCKS, LINEARS, PruningConfig(packages=count, calibration="replay")
        )
        assert [x for p in packages for x in p.layers] == layers(PruningConfig())
        assert [sum(unit[0] in p.taps for unit in units) for p in packages] == sizes


def test_one_by_default_four_where_they_are_calibrated_one_by_one_at_most_one_for_each_unit():
    assert len(plan_packages(BLOCKS, LINEARS, PruningConfig())) == 1
    live = {"calibration": "live"}
    assert len(plan_packages(BLOCKS, LINEARS, PruningConfig(**live))) == 4
    assert (
        len(plan_packages(BLOCKS, LINEARS, PruningConfig(method="magnitude", **live))) == 1
    )  # its choice needs no Hessian
    assert len(plan_packages(BLOCKS, LINEARS, PruningConfig(blocks="1", target="ffn", **live))) == 2
    with pytest.raises(UserError, match="12 basic units, found 13"):
        plan_packages(BLOCKS, LINEARS, PruningConfig(packages=13))


def test_a_budget_is_kept_with_as_few_packages_as_it_allows():
    units = select(BLOCKS, PruningConfig(), LINEARS)
    work = work_bytes((tap for unit in units for tap in unit), LINEARS, PruningConfig())
    largest = 2 * 8 * (128 * 128 + 128)  # both streams' FFN down projections
    packages = plan_packages(
        BLOCKS, LINEARS, PruningConfig(calibration="live", memory_budget_gib=(work + largest) / GIB)
    )
    assert max(p.hessian_bytes for p in packages) <= largest
    assert [x for p in packages for x in p.layers] == layers(PruningConfig())
    for one, two in itertools.pairwise(packages):
        assert one.hessian_bytes + two.hessian_bytes > largest
    half = PruningConfig(calibration="live", memory_budget_gib=(work + largest / 2) / GIB)
    split = plan_packages(BLOCKS, LINEARS, half)  # the largest units fall into their taps
    assert max(p.hessian_bytes for p in split) <= largest / 2
    assert (
        len(
            plan_packages(BLOCKS, LINEARS, PruningConfig(calibration="live", memory_budget_gib=1.0))
        )
        == 1
    )


def test_the_work_of_solving_is_that_of_the_largest_tap():
    units = select(BLOCKS, PruningConfig(), LINEARS)
    taps = [tap for unit in units for tap in unit]
    down, up = (
        next(t for t in taps if "ff.net.2" in t.layers[0]),
        next(t for t in taps if "ff.net.0" in t.layers[0]),
    )
    assert work_bytes([down], LINEARS, PruningConfig()) == 14 * 128 * 128 + 16 * 32 * 128
    assert work_bytes([up, down], LINEARS, PruningConfig()) == work_bytes(
        [down], LINEARS, PruningConfig()
    )
    structured = PruningConfig(pattern="structured", sparsity=0.25)
    assert work_bytes([down], LINEARS, structured) == 2 * (15 * 128 * 128 + 16 * 32 * 128)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ("live", r"Hessian of transformer_blocks\.0\.ff\.net\.2 alone"),
        ("single", "solving the largest layer alone"),
    ],
)
def test_a_budget_too_small_says_what_is_needed(calibration, words):
    with pytest.raises(UserError, match=words):
        plan_packages(
            BLOCKS,
            LINEARS,
            PruningConfig(
                target="ffn", include="*net.2", calibration=calibration, memory_budget_gib=1e-6
            ),
        )


def test_what_waits_has_the_room_that_solving_and_the_largest_package_leave():
    for calibration in ("single", "replay"):
        config = PruningConfig(calibration=calibration, memory_budget_gib=1.0)
        units = select(BLOCKS, config, LINEARS)
        packages = plan_packages(BLOCKS, LINEARS, config)
        work = work_bytes((tap for unit in units for tap in unit), LINEARS, config)
        assert scratch_room(config, packages, LINEARS) == GIB - work - (
            packages[0].hessian_bytes if calibration == "replay" else 0
        )
    assert scratch_room(PruningConfig(), packages, LINEARS) > 0


def test_held_out_prompts_have_hessians_of_their_own_that_count():
    units, (without, apart) = (
        select(BLOCKS, PruningConfig(), LINEARS),
        (PruningConfig(held_out=n, memory_budget_gib=1.0) for n in (0, 5)),
    )
    sizes = [plan_packages(BLOCKS, LINEARS, config)[0].hessian_bytes for config in (without, apart)]
    assert sizes[1] == 2 * sizes[0]
    works = [
        work_bytes((tap for unit in units for tap in unit), LINEARS, config)
        for config in (without, apart)
    ]
    assert works[1] > works[0]
    rooms = [
        scratch_room(config, plan_packages(BLOCKS, LINEARS, config), LINEARS)
        for config in (without, apart)
    ]
    assert rooms[0] - rooms[1] == works[1] - works[0]


def test_asymmetric_calibration_has_cross_sums_that_count():
    """Nearly twice the bytes, so packages that a budget fills have half the units.

    All packages but the first need one more run of the dense model.
    """
    units = select(BLOCKS, PruningConfig(), LINEARS)
    plain, aimed = (
        PruningConfig(calibration="replay", packages=4, asymmetric=asymmetric)
        for asymmetric in (False, True)
    )
    sizes = [
        [p.hessian_bytes for p in plan_packages(BLOCKS, LINEARS, config)]
        for config in (plain, aimed)
    ]
    for package, plain_size, size in zip(
        plan_packages(BLOCKS, LINEARS, aimed), *sizes, strict=True
    ):
        columns = [LINEARS[tap.layers[0]][1] for tap in package.taps]
        assert size == plain_size + sum(4 * each * each for each in columns)
    assert [passes(config, 4) for config in (plain, aimed)] == [2.5, 3.25]
    work = work_bytes((tap for unit in units for tap in unit), LINEARS, aimed)
    budget = (work + 4 * 8 * (128 * 128 + 128)) / GIB
    found = [
        plan_packages(
            BLOCKS,
            LINEARS,
            PruningConfig(calibration="replay", memory_budget_gib=budget, asymmetric=a),
        )
        for a in (False, True)
    ]
    assert all(package.hessian_bytes <= budget * GIB - work for package in found[1])
    assert len(found[1]) > len(found[0])


@pytest.mark.parametrize("wild", ["*.1.attn.to_q", "*.1.attn.add_k_proj", "*.1.attn.to_out.0"])
def test_an_excluded_layer_leaves_its_whole_group_be(wild):
    """Whether it writes the heads or reads them."""
    everything, without = (
        select_groups(BLOCKS, PruningConfig(pattern="structured", keep_first_last=False, exclude=e))
        for e in ((), wild)
    )
    assert [g for g in everything if g not in without] == [
        g for g in everything if (g.owner, g.kind) == ("transformer_blocks.1.attn", "heads")
    ]
