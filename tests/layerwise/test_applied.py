"""The pruned model against its record, and a model whose structured pruning was interrupted."""

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel

import obsdiff
from obsdiff import PruningConfig, UserError, prune_
from obsdiff.errors import RunFailed
from obsdiff.layerwise import structured
from obsdiff.models import surgery
from obsdiff.models.layout import layout_of

from ..conftest import PROMPTS, sd, sd3
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
STRUCTURED = QUICK | {"pattern": "structured", "round_to": 1, "keep_first_last": False}


def test_a_hook_that_keeps_a_layer_dense_is_found_at_the_end():
    pipe = sd3()
    name = "transformer_blocks.0.ff.net.2"
    layer = pipe.transformer.get_submodule(name)
    dense = layer.weight.detach().clone()

    def rewrite(module, args):
        module.weight.data.copy_(dense)

    layer.register_forward_pre_hook(rewrite)
    config = PruningConfig(calibration="live", packages=3, **QUICK)
    with pytest.raises(RunFailed, match=f"{name}: expected 50.00% zeros"):
        prune_(pipe, PROMPTS[:1], config)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("calibration", first_quick(["live", "replay", "single"]))
@pytest.mark.parametrize("place", [(structured, "solve_groups", 3), (surgery, "update_sizes_", 9)])
@pytest.mark.slow
def test_an_interrupted_structured_model_can_be_saved_and_opened(
    calibration, error, place, monkeypatch, tmp_path
):
    module, function, last = place
    real, calls = getattr(module, function), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == last:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(module, function, interrupted)
    pipe = sd3()
    config = PruningConfig(calibration=calibration, **STRUCTURED)
    with pytest.raises(error):
        prune_(pipe, PROMPTS[:1], config)
    monkeypatch.setattr(module, function, real)
    assert type(pipe.transformer).__name__ == "PrunedSD3Transformer2DModel"
    pipe.transformer.save_pretrained(tmp_path)
    again = obsdiff.PrunedSD3Transformer2DModel.from_pretrained(tmp_path)
    saved = pipe.transformer.state_dict()
    assert all(torch.equal(w, saved[name]) for name, w in again.state_dict().items())
    pipe(PROMPTS[0], **QUICK, output_type="latent")


def test_a_run_that_fails_before_any_group_leaves_the_class(monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(structured, "solve_groups", fail)
    pipe = sd3()
    with pytest.raises(MemoryError):
        prune_(pipe, PROMPTS[:1], PruningConfig(calibration="single", **STRUCTURED))
    assert type(pipe.transformer) is SD3Transformer2DModel


def with_class(pipe, cls):
    unet = cls.from_config(dict(pipe.unet.config))
    unet.load_state_dict(pipe.unet.state_dict())
    pipe.unet = unet.eval()
    return pipe


@pytest.mark.slow
def test_a_subclass_with_the_same_forward_becomes_the_nearest_pruned_class(tmp_path):
    class Mine(UNet2DConditionModel):
        def extra(self):
            return 1

    pipe = with_class(sd(), Mine)
    report = prune_(pipe, PROMPTS[:1], PruningConfig(calibration="single", **STRUCTURED))
    assert type(pipe.unet).__name__ == "PrunedUNet2DConditionModel"
    obsdiff.save_pruned(pipe, tmp_path / "out", report)
    again = obsdiff.PrunedUNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    assert layout_of(again) == report.layout
    assert again.config["pruned_layout"] == pipe.unet.config["pruned_layout"]


def test_a_subclass_with_its_own_forward_is_refused_before_anything_runs():
    class Mine(UNet2DConditionModel):
        def forward(self, *args, **kwargs):
            raise AssertionError

    with pytest.raises(UserError, match="Mine has its own"):
        prune_(with_class(sd(), Mine), PROMPTS[:1], PruningConfig(**STRUCTURED))
