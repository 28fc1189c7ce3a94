"""The Hessians of each package: three ways to calibrate.

    live     the paper's: all prompts run again before each package, with the model as pruned so far
    replay   one dense trajectory is recorded; its calls run again package by package   (replay/)
    single   one dense pass sums every Hessian; nothing runs again

Each yields {tap: CalibratedInput}, package after package; the caller prunes a package before it
requests the next. Tensors that exceed the memory are stored in files. A resumed run names the
layers that are solved: a package of solved layers alone yields {}, and the caller applies its
recorded results in turn, after the dense pass.

The dense pass of single and replay does not depend on the prunings that read it: `DensePass`
stores it, for several prunings of one model.
"""

import contextlib
from collections.abc import Generator, Set
from dataclasses import dataclass, field
from itertools import chain

from ..errors import CalibrationError, UserError
from ..models.structure import Tap
from ..runtime.display import current
from .calibrated_input import CalibratedInput
from .calibration_set import CalibrationSet
from .context import CalibratedInputs, CalibrationContext
from .hooks import calibrate
from .packages import Package
from .plan import PruningPlan
from .replay.dense_model import DenseModel
from .replay.kept_recording import read_recording, write_recording
from .replay.recording import TensorCache, Trajectory
from .replay.run import package_spans, record_trajectory, replay_packages

DENSE_PASS = "dense pass"  # the name of its phase
PackageInputs = Generator[CalibratedInputs, None, None]


@dataclass
class DensePass:
    """The result of one dense pass over the calibration prompts.

    Attributes:
        calibration_set: the prompts of the pass.
        inputs: the sums by layer.
        trajectory: the recorded trajectory, for replay.
        seconds: the time of the pass.
        ratios: effect on the latents by layer error, of the layers of an allocation.
    """

    calibration_set: CalibrationSet
    inputs: dict[str, CalibratedInput] = field(default_factory=dict)
    trajectory: Trajectory | None = None
    seconds: float = 0.0
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)

    def of(self, taps: tuple[Tap, ...]) -> CalibratedInputs:
        """Return the sums of some taps; UserError if the pass did not sum one of them."""
        missing = [tap.layers[0] for tap in taps if tap.layers[0] not in self.inputs]
        if missing:
            raise UserError(
                f"dense pass: it has no Hessian for {missing[0]} and {len(missing) - 1} others; "
                "pass this config to dense_pass, too"
            )
        return {tap: self.inputs[tap.layers[0]] for tap in taps}


def gather(
    context: CalibrationContext,
    plan: PruningPlan,
    dense: DensePass | None = None,
    solved: Set[str] = frozenset(),
) -> Generator[tuple[Package, CalibratedInputs], None, None]:
    """Yield each package with the sums of its taps, by the plan's calibration.

    Args:
        context: the calibration context.
        plan: the pruning; its packages, in order.
        dense: a dense pass made before (None: single and replay make their own).
        solved: layers that a resumed run has solved.
    """
    packages = plan.packages
    if plan.config.calibrating == "live":
        gathered = live(context, packages, solved)
    elif plan.config.calibrating == "replay":
        gathered = replay(context, packages, dense, solved)
    else:
        gathered = single(context, packages, dense, solved)
    with contextlib.closing(gathered):
        for package in packages:
            yield package, next(gathered)


def live(
    context: CalibrationContext, packages: list[Package], solved: Set[str] = frozenset()
) -> PackageInputs:
    """Yield the sums of each package from a run of all prompts, as in the paper."""
    for package in packages:
        if solved >= set(package.layers):
            yield {}
        else:
            yield context.reduced(calibrate(context, list(package.taps)))


def single(
    context: CalibrationContext,
    packages: list[Package],
    dense: DensePass | None = None,
    solved: Set[str] = frozenset(),
) -> PackageInputs:
    """Yield the sums of each package from one dense pass."""
    wanted = [[t for t in package.taps if not solved >= set(t.layers)] for package in packages]
    if dense is None:
        dense = DensePass(context.calibration_set)
        if any(wanted):
            dense = gather_dense(context, list(chain(*wanted)), "single")
    for taps in wanted:
        yield dense.of(tuple(taps))


def replay(
    context: CalibrationContext,
    packages: list[Package],
    dense: DensePass | None = None,
    solved: Set[str] = frozenset(),
) -> PackageInputs:
    """Yield the sums of the first package from the dense pass, those of the others by replay."""
    done = leading(packages, solved)
    if done == len(packages):
        yield from ({} for _ in packages)
        return
    first, begin = () if done else packages[0].taps, max(1, done)
    own = dense or recorded_before(context, done) or recorded_now(context, packages, first)
    assert own.trajectory is not None  # require_fitting checks a dense pass made before
    with contextlib.ExitStack() as stack:
        dense_model = None
        if context.asymmetric:
            spans = package_spans(packages, own.trajectory)
            dense_model = DenseModel(context, own.trajectory, packages, spans)
            stack.enter_context(contextlib.closing(dense_model))
            dense_model.begin(begin)
        yield own.of(first)
        if not dense:
            own.inputs.clear()
        yield from ({} for _ in packages[1:done])
        for found in replay_packages(context, own.trajectory, packages, begin, dense_model):
            yield context.reduced(found)


def recorded_before(context: CalibrationContext, done: int) -> DensePass | None:
    """Return the trajectory that the run has stored before it was killed, without Hessians.

    None while the first package is not solved: its Hessians are those of the dense pass.
    """
    if not done or context.recording is None:
        return None
    cache = TensorCache(context.scratch, context.device)
    trajectory = read_recording(context.recording, cache, context.blocks)
    if trajectory is None:
        return None
    current().complete(DENSE_PASS)
    return DensePass(context.calibration_set, trajectory=trajectory)


def recorded_now(
    context: CalibrationContext, packages: list[Package], first: tuple[Tap, ...]
) -> DensePass:
    """Return a new dense pass with its trajectory, which is stored if later packages read it."""
    found = gather_dense(context, list(first), "replay")
    if context.recording and found.trajectory and len(packages) > 1:
        write_recording(context.recording, found.trajectory)
    return found


def leading(packages: list[Package], solved: Set[str]) -> int:
    """Return the number of packages before the first with an unsolved layer."""
    return next((i for i, p in enumerate(packages) if not solved >= set(p.layers)), len(packages))


def gather_dense(context: CalibrationContext, taps: list[Tap], calibration: str) -> DensePass:
    """Run one dense pass.

    Args:
        context: the calibration context.
        taps: the inputs to sum.
        calibration: "replay" also records the trajectory; others do not.
    """
    trajectory, phases = None, current()
    with phases.within(DENSE_PASS):
        if calibration == "replay":
            trajectory, found = record_trajectory(context, taps)
        else:
            found = calibrate(context, taps, scratch=context.scratch)
        context.reduced(found)
        if further := context.calibration_set.held_out:
            for tap, calibrated in held_out(context, taps, further).items():
                found[tap].held_out = calibrated.hessian
    phases.complete(DENSE_PASS)
    inputs = {layer: calibrated for tap, calibrated in found.items() for layer in tap.layers}
    return DensePass(context.calibration_set, inputs, trajectory)


def held_out(
    context: CalibrationContext, taps: list[Tap], prompts: CalibrationSet
) -> CalibratedInputs:
    """Return the sums of the held-out prompts, which run after the others in the same pass."""
    try:
        return context.reduced(calibrate(context, taps, prompts, scratch=context.scratch))
    except CalibrationError as error:
        raise CalibrationError(f"held-out prompts: {error}") from None
