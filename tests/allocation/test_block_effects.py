"""The choice of blocks, with effects that a function states instead of drawings."""

import math

import pytest

from obsdiff.allocation.block_effects import choose_blocks, trials_of
from obsdiff.calibration.depth_selection import DepthSelection
from obsdiff.errors import CalibrationError
from obsdiff.models.depth_table import Stack

LONG = 12


class Stated:
    """Effects of sets of blocks by a function of their numbers; counts the measurements."""

    def __init__(self, effect, count, blocks=LONG):
        names = [f"blocks.{i}" for i in range(blocks)]
        self.selection = DepthSelection(
            (Stack("blocks"),), {"blocks": names}, names, dict.fromkeys(names, 1.0), count
        )
        self.effect, self.known, self.rounds = effect, {}, []

    def measure(self, name, sets):
        found = {out: self.effect([int(n.rpartition(".")[2]) for n in out]) for out in sets}
        self.rounds.append(name)
        self.known |= found
        return found


def test_effects_that_add_up_choose_the_least_in_order():
    alone = [9, 2, 8, 1, 7, 6, 3, 9, 9, 9, 9, 9]
    found = choose_blocks(Stated(lambda out: sum(alone[i] for i in out), 3))
    assert found == ("blocks.3", "blocks.1", "blocks.6")


def test_a_block_that_matters_only_after_another_is_seen():
    alone = [5, 1, 2, 3, 5, 5, 5, 5, 5, 5, 5, 5]
    stated = Stated(lambda out: sum(alone[i] for i in out) + 9 * ({1, 2} <= set(out)), 2)
    assert choose_blocks(stated) == ("blocks.1", "blocks.3")


def test_a_neighbour_outside_the_shortlist_is_measured():
    alone = [3, 3, 3, 3, 3, 3, 3, 1, 8, 8, 8, 8]
    joint = {(7, 8): 2}
    found = choose_blocks(Stated(lambda out: joint.get(tuple(out), sum(alone[i] for i in out)), 2))
    assert found == ("blocks.7", "blocks.8")


def test_a_run_in_a_row_wins_if_it_is_better_whole():
    alone = [1, 6, 1, 6, 1, 6, 2, 2, 2, 6, 6, 6]
    joint = {(6, 7, 8): 0.5}
    stated = Stated(lambda out: joint.get(tuple(out), sum(alone[i] for i in out)), 3)
    assert choose_blocks(stated) == ("blocks.6", "blocks.7", "blocks.8")
    assert stated.rounds == ["blocks-1", "blocks-2", "blocks-3", "blocks-in-a-row"]


@pytest.mark.parametrize("count", [1, 2, 6, 11])
def test_the_number_of_drawings_is_bounded_and_linear(count):
    stated = Stated(lambda out: sum(1 + i / 10 for i in out), count)
    choose_blocks(stated)
    assert len(stated.known) + 2 <= trials_of(stated.selection) <= 2 + LONG + 6 * (count - 1) + 2


def test_a_block_whose_absence_breaks_the_latents_never_leaves():
    found = choose_blocks(Stated(lambda out: math.inf if 0 in out else len(out) + out[0], 2))
    assert found == ("blocks.1", "blocks.2")
    with pytest.raises(CalibrationError, match="inf or NaN"):
        choose_blocks(Stated(lambda out: math.inf, 1))
