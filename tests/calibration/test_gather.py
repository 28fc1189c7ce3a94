import pytest
import torch

import obsdiff
from obsdiff import PruningConfig, UserError
from obsdiff.calibration.hessian import Hessian
from tests.calibration.test_hooks import denoiser_of

from ..conftest import PROMPTS, flux, sd, sd3

SMALL = {"num_inference_steps": 3, "height": 16, "width": 16}


def pruned(make, **settings):
    pipe = make()
    report = obsdiff.prune_(pipe, PROMPTS[:3], PruningConfig(**SMALL | settings))
    return denoiser_of(pipe).state_dict(), report


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "structured"])
@pytest.mark.parametrize("make", [sd3, sd, flux])
def test_with_one_package_all_calibrations_are_the_same(make, pattern):
    live, report = pruned(make, pattern=pattern, calibration="live", packages=1)
    for calibration in ("single", "replay"):
        other, same = pruned(
            make,
            pattern=pattern,
            calibration=calibration,
            **({"packages": 1} if calibration == "replay" else {}),
        )
        assert all(torch.equal(other[name], w) for name, w in live.items())
        assert [row.error for row in same.layers] == [row.error for row in report.layers]


@pytest.mark.slow
def test_replay_repairs_what_earlier_packages_broke_much_as_live_does():
    single, _ = pruned(sd3, calibration="single")
    live, _ = pruned(sd3, calibration="live", packages=4)
    replay, report = pruned(sd3, calibration="replay", packages=4)
    last = report.packages[-1][-1] + ".weight"
    first = report.packages[0][0] + ".weight"
    assert torch.equal(replay[first], single[first])
    assert not torch.equal(replay[last], single[last])
    assert (replay[last] - live[last]).norm() < (single[last] - live[last]).norm()


@pytest.mark.slow
def test_hessians_that_do_not_fit_wait_on_disk_and_change_nothing(monkeypatch):
    files, mapped = [], Hessian.mapped.__func__

    def spied(cls, columns, file, device):
        files.append(file)
        return mapped(cls, columns, file, device)

    monkeypatch.setattr(Hessian, "mapped", classmethod(spied))
    roomy, _ = pruned(sd3, calibration="single")
    assert not files
    tight, _ = pruned(sd3, calibration="single", memory_budget_gib=450_000 / 2**30)
    assert files
    assert not any(file.exists() for file in files)
    assert all(torch.equal(tight[name], w) for name, w in roomy.items())


@pytest.mark.slow
def test_recordings_that_do_not_fit_wait_on_disk_and_change_nothing(monkeypatch):
    roomy, _ = pruned(sd3, calibration="replay", packages=4)
    monkeypatch.setattr("obsdiff.prune.scratch_room", lambda *_: 0)
    tight, _ = pruned(sd3, calibration="replay", packages=4)
    assert all(torch.equal(tight[name], w) for name, w in roomy.items())


@pytest.mark.slow
def test_packages_of_replay_follow_from_a_budget():
    few, many = (
        len(pruned(sd3, calibration="replay", memory_budget_gib=budget / 2**30)[1].packages)
        for budget in (1e9, 500_000)
    )
    assert few == 1 < many


def test_single_has_one_package():
    with pytest.raises(
        UserError, match="single sums all Hessians in one pass, so expected 1, found 4"
    ):
        PruningConfig(calibration="single", packages=4)
