"""The phases of one pruning and their units, as its plan knows them, for the display.

dense pass    prompts
calibration   prompts of every package: live all of them, replay those after the first
allocation    trials: layers or groups that are pruned alone; each draws some prompts
solving       multiplications, approximately
"""

from ..calibration.context import ALLOCATION
from ..calibration.gather import DENSE_PASS, DensePass
from ..calibration.packages import passes
from ..calibration.plan import PruningPlan
from ..runtime.display import current
from .executor import SOLVING, Executor

CALIBRATION = "calibration"
PERMUTATION = "permutation"
DRAWN_FIRST = 2  # drawings of the allocation before its first trial


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
        drawn = config.allocation == "sensitivity"
        trials = len(plan.groups or plan.taps) / executor.context.ranks.size
        phases.plan(
            ALLOCATION,
            round(trials) + DRAWN_FIRST * drawn,
            unit="trials",
            model=(DENSE_PASS, min(config.allocation_prompts, prompts)) if drawn else None,
        )
    if config.permute:
        phases.plan(PERMUTATION)
    phases.plan(SOLVING, executor.work_left, again=executor.work)
    phases.drop_unplanned(DENSE_PASS, CALIBRATION, ALLOCATION, PERMUTATION)
