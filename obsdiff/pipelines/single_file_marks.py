"""Marks in a single file that say how its model is read: tensors by name, not part of any layer.

They are read and compared with the scheduler of the config folder, or refused. Imports no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.json_files import read_json
from .strict_header import TensorInfo, shown

V_PREDICTION = "v_pred"
ZERO_SNR = "ztsnr"  # zero terminal signal-to-noise ratio
EDM = "edm"  # beginning of edm_mean, edm_std, edm_vpred.sigma_max ...
SCALED = ("scaled_fp8", "scale_weight", "scale_input", "weight_scale", "input_scale")
SCHEDULER = Path("scheduler", "scheduler_config.json")


def check_marks(file: Path, header: Mapping[str, TensorInfo], configs: Path) -> None:
    """Check the marks of a single file against the scheduler of its config folder.

    Args:
        file: the checkpoint.
        header: its header.
        configs: the folder with its configs.

    Raises:
        UserError: a mark contradicts the scheduler, means scaled weights, or is not known.
    """
    own = {name.rpartition(".")[2]: name for name in header}
    scaled = next((own[mark] for mark in SCALED if mark in own), None)
    if scaled:
        raise UserError(
            f"{file}: expected unquantised weights, found {shown(scaled)}, a mark of scaled 8-bit "
            "weights; prune the unquantised model, then quantise the result"
        )
    edm = next((name for name in header if name.startswith(EDM)), None)
    if edm or V_PREDICTION in own or ZERO_SNR in own:
        place = configs / SCHEDULER
        require_scheduler(file, own, edm, place, read_json(place))
    known = (V_PREDICTION, ZERO_SNR)
    for name, info in header.items():
        is_mark = "." not in name and 0 in info["shape"] and not name.startswith(EDM)
        if is_mark and name not in known:
            raise UserError(
                f"{file}: {shown(name)} is an empty tensor, a mark that obsdiff does not know: "
                "open the model in its own program and save it as a pipeline folder"
            )


def require_scheduler(
    file: Path, own: Mapping[str, str], edm: str | None, place: Path, scheduler: dict[str, Any]
) -> None:
    """Check the scheduler that marks ask for; UserError for another.

    Args:
        file: the checkpoint.
        own: the full name of each tensor, by its last part.
        edm: a mark of the EDM formulation, if there is one.
        place: the scheduler's config.
        scheduler: its contents.
    """
    cls, prediction = scheduler.get("_class_name"), scheduler.get("prediction_type")
    if edm and not str(cls).startswith("EDM"):
        raise UserError(
            f"{file} has the mark {shown(edm)}: expected an EDM scheduler in {place}, found {cls}; "
            "pass --config with the model's own configs"
        )
    v_mark = own.get(V_PREDICTION) or (edm if edm and edm.startswith("edm_vpred") else None)
    if v_mark and prediction != "v_prediction":
        raise UserError(
            f"{file} has the mark {shown(v_mark)}: expected prediction_type v_prediction in "
            f"{place}, found {prediction!r}; pass --config with the model's own configs"
        )
    if ZERO_SNR in own and not scheduler.get("rescale_betas_zero_snr"):
        raise UserError(
            f"{file} has the mark {shown(own[ZERO_SNR])}: expected rescale_betas_zero_snr true in "
            f"{place}, found {scheduler.get('rescale_betas_zero_snr')!r}; pass --config with the "
            "model's own configs"
        )
