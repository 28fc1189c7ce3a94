"""The numbers of the display, by a clock that the tests turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obsdiff.runtime.phases import Phases


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, phases: Phases, name: str, units: float, seconds: float) -> None:
        """Spend seconds in a phase, then count units of it as done."""
        with phases.within(name):
            self.now += seconds
            phases.advance(name, units)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def phases(clock):
    return Phases(clock)


def test_the_time_left_is_that_of_the_measured_rates_over_all_phases(clock, phases):
    phases.plan("dense pass", 10, unit="prompts")
    phases.plan("allocation", 5, model=("dense pass", 2))  # each trial draws two prompts
    phases.plan("solving", 100)
    assert phases.unknown == ["dense pass", "allocation", "solving"]
    assert phases.left == 0
    clock.work(phases, "dense pass", 4, 12.0)  # 3 seconds a prompt
    assert phases.unknown == ["solving"]
    assert phases.left == pytest.approx(6 * 3 + 5 * 6)
    clock.work(phases, "dense pass", 6, 18.0)
    clock.work(phases, "allocation", 1, 10.0)  # its own rate from here on
    assert phases.left == pytest.approx(4 * 10)
    clock.work(phases, "allocation", 4, 40.0)
    clock.work(phases, "solving", 25, 50.0)
    assert phases.unknown == []
    assert phases.left == pytest.approx(75 * 2)
    assert phases.percent == pytest.approx(100 * 130 / 280)


def test_time_inside_a_unit_counts_down_and_an_overrun_never_reaches_zero(clock, phases):
    phases.plan("solving", 4)
    clock.work(phases, "solving", 1, 10.0)
    with phases.within("solving"):
        clock.now += 5
        assert phases.left == pytest.approx(25)
        clock.now += 1000
        assert phases.left > 0


def test_several_prunings_are_counted_from_the_first(clock, phases):
    phases.repeats = 3
    phases.plan("dense pass", 8, repeats=1)
    phases.plan("solving", 10)
    clock.work(phases, "dense pass", 8, 8.0)
    phases.complete("dense pass")
    clock.work(phases, "solving", 10, 20.0)
    phases.complete("solving")
    assert phases.left == pytest.approx(2 * 20)
    assert not phases.all["solving"].finished
    phases.plan("solving", 16, again=10)
    assert phases.all["solving"].total == 36


def test_what_a_resumed_run_does_not_do_is_struck_out(clock, phases):
    phases.plan("allocation", 50)
    phases.plan("solving", 30, again=100)
    phases.complete("allocation")  # read from a file
    assert phases.all["allocation"].finished
    clock.work(phases, "solving", 15, 5.0)
    assert phases.left == pytest.approx(5.0)


def test_the_time_of_a_phase_inside_another_is_its_own(clock, phases):
    phases.plan("calibration", 2)
    phases.plan("dense pass", 1)
    with phases.within("calibration"):
        clock.now += 1
        with phases.within("dense pass"):
            clock.now += 5
        clock.now += 2
        assert phases.seconds_of(phases.all["calibration"]) == 3
    assert phases.all["dense pass"].seconds == 5


def test_time_that_says_nothing_about_a_unit_is_left_out_of_the_rate(clock, phases):
    phases.repeats = 2
    phases.plan("loading", 1)
    with phases.within("loading", measured=False):
        clock.now += 20
    clock.work(phases, "loading", 1, 3.0)
    assert phases.left == pytest.approx(3.0)
    assert phases.all["loading"].seconds == 23


@pytest.mark.parametrize(("steps", "calls"), [(4, 1), (4, 2), (1, 1)])
def test_prompts_are_counted_by_their_steps(clock, phases, steps, calls):
    phases.plan("dense pass", 6)
    with phases.within("dense pass"):
        seen = []
        for prompts in (4, 2):
            for step in range(steps):
                for _ in range(calls if steps > 1 else 1):  # second-order samplers
                    clock.now += 1
                    phases.drawn(prompts, step, steps)
                    seen.append(phases.all["dense pass"].done)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(6 - 2 / steps)
    assert phases.all["dense pass"].done == pytest.approx(6)
    assert phases.all["dense pass"].finished


def test_calls_outside_of_all_phases_and_unplanned_phases_are_harmless(clock, phases):
    phases.drawn(4, 0, 3)
    phases.complete("latency")
    phases.advance("latency")
    with phases.within("latency"):
        clock.now += 1
        phases.drawn(4, 0, 3)
    assert phases.all == {}
    phases.expect("calibration", "saving", "solving")
    phases.plan("solving", 1)
    phases.drop_unplanned("calibration", "solving", "latency")
    assert list(phases.all) == ["saving", "solving"]


NAMES = ("loading", "dense pass", "allocation", "solving", "saving")


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 4), st.floats(0.0, 1e4)), max_size=40)
)
def test_the_share_never_falls_and_is_below_100_until_the_end(steps):
    clock = Clock()
    phases = Phases(clock)
    phases.expect(*NAMES)
    shown = [phases.percent]
    phases.plan("dense pass", 20)
    phases.plan("allocation", 10, model=("dense pass", 3.0))
    phases.plan("solving", 15)
    for name, units, seconds in steps:
        with phases.within(name):
            clock.now += seconds / 2
            shown.append(phases.percent)
            clock.now += seconds / 2
            phases.advance(name, units)
        shown.append(phases.percent)
    assert shown == sorted(shown)
    assert all(0 <= percent < 100 for percent in shown)
    phases.finish()
    assert phases.percent == 100
