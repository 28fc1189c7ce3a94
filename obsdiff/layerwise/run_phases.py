"""The phases of one pruning and their units, as its plan knows them, for the display.

dense pass    prompts
calibration   prompts of every package: live all of them, replay those after the first
allocation    trials: layers or groups that are pruned alone, each draws some prompts; or the
              calls whose gradients measure all of them
solving       multiplications, approximately
"""

from typing import Any

from ..calibration.context import ALLOCATION
from ..calibration.gather import DENSE_PASS, DensePass
from ..calibration.packages import passes
from ..calibration.plan import PruningPlan
from ..runtime.display import current
from .executor import SOLVING, Executor

CALIBRATION = "calibration"
PERMUTATION = "permutation"
DRAWN_FIRST = 2  # drawings of the allocation before its first trial
# a prompt with gradients, in prompts without: forward, again from checkpoints, and backward
GRADIENT_RUNS = 4


def plan_phases(plan: PruningPlan, dense: DensePass | None, executor: Executor) -> None:
    """Tell the display what this pruning will do.

    Args:
        plan: the pruning.
        dense: the dense pass that was made before, if there is one.
        executor: the tasks, and which of them a resumed run has solved.
    """
    phases, config = current(), plan.config
    solved, prompts = executor.solved_layers, plan.calibration_set.here
    open_packages = sum(not solved >= set(package.layers) for package in plan.packages)
    if config.calibrating == "live":
        every = len(plan.packages) * prompts
        phases.plan(CALIBRATION, open_packages * prompts, unit="prompts", again=every)
    else:
        if dense is None and open_packages:
            phases.plan(DENSE_PASS, prompts, unit="prompts")
        if config.calibrating == "replay" and len(plan.packages) > 1:
            later = len(plan.packages) - 1
            phases.plan(
                CALIBRATION,
                min(open_packages, later) * prompts,
                unit="prompts",
                model=(DENSE_PASS, (passes(config, len(plan.packages)) - 1) / later),
                again=later * prompts,
            )
    if config.allocation != "uniform":
        phases.plan(ALLOCATION, **allocation_units(plan, executor.context.ranks.size))
    if config.permute:
        phases.plan(PERMUTATION)
    phases.plan(SOLVING, executor.work_left, again=executor.work)
    phases.drop_unplanned(DENSE_PASS, CALIBRATION, ALLOCATION, PERMUTATION)


def allocation_units(plan: PruningPlan, processes: int) -> dict[str, Any]:
    """Return units and cost of the allocation, as arguments of the display."""
    config = plan.config
    prompts = min(config.allocation_prompts, len(plan.calibration_set.prompts))
    if config.allocation == "sensitivity":
        calls = plan.calibration_set.first(config.allocation_prompts)
        model = (DENSE_PASS, float(GRADIENT_RUNS * len(calls[0])))
        return {"units": -(-len(calls) // processes), "unit": "calls", "model": model}
    trials = round(len(plan.groups or plan.taps) / processes)
    if config.allocation == "drawn":
        model = (DENSE_PASS, float(prompts))
        return {"units": trials + DRAWN_FIRST, "unit": "trials", "model": model}
    return {"units": trials, "unit": "trials"}
