"""Pictures that the denoiser did not draw: NaN latents, a NaN VAE, safety checkers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor

from obsdiff.cli.main import main
from obsdiff.evaluation.draw import draw_checked
from obsdiff.evaluation.flaws import Flaw, PassAll, flaws_of, problem, remove_checkers_
from obsdiff.evaluation.judges.files import Judges
from obsdiff.evaluation.judges.scores import all_figures
from obsdiff.evaluation.metrics import mean_of, relative_latent_error

from ..conftest import PROMPTS, sd

NAN = float("nan")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
COMPARING = ("psnr", "ssim", "relative_latent_error")


def broken(part: str):
    """A tiny pipeline whose UNet, VAE or neither gives NaN."""
    pipe = sd()
    layer = {"unet": pipe.unet.conv_out, "vae": pipe.vae.decoder.conv_out}.get(part)
    if layer is not None:
        with torch.no_grad():
            layer.bias.fill_(NAN)
    return pipe


def with_checker(pipe):
    """The same pipeline with a safety checker that flags every picture."""
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = small | {"image_size": 16, "patch_size": 8, "projection_dim": 8}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(projection_dim=8, vision_config=vision, text_config=small)
    )
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2.0)
    size = {"shortest_edge": 16}
    extractor = CLIPImageProcessor(size=size, crop_size={"height": 16, "width": 16})
    parts = pipe.components | {"safety_checker": checker, "feature_extractor": extractor}
    return StableDiffusionPipeline(**parts)


def drawn(pipe):
    return draw_checked(pipe, PROMPTS[:3], [1, 2, 3], QUICK, batch_size=2)


@pytest.mark.parametrize(
    ("part", "flaw"), [("", Flaw.NONE), ("unet", Flaw.NOT_FINITE_LATENTS), ("vae", Flaw.NOT_FINITE)]
)
def test_pictures_with_nan_are_found_and_marked(part, flaw):
    found = drawn(broken(part))
    assert found.flaws().tolist() == [flaw] * 3
    for image in found.images:
        red, green, _ = np.asarray(image)[0, 0].tolist()
        assert (red > 150 and green < 60) == bool(flaw)


def test_flagged_pictures_are_found_and_a_removed_checker_flags_none():
    pipe = with_checker(sd())
    assert drawn(pipe).flaws().tolist() == [Flaw.FLAGGED] * 3
    remove_checkers_(pipe)
    assert pipe.safety_checker is None
    assert drawn(pipe).flaws().tolist() == [Flaw.NONE] * 3


def test_a_checker_that_a_pipeline_refuses_to_lack_passes_everything():
    class Guardrail:
        def check_video_safety(self, frames):
            return None

    pipe = SimpleNamespace(components={"safety_checker": Guardrail()}, watermark=object())
    remove_checkers_(pipe)
    assert isinstance(pipe.safety_checker, PassAll)
    assert pipe.watermark is None
    assert pipe.safety_checker.check_video_safety([1]) == [1]
    assert pipe.safety_checker.to("cpu").check_text_safety("x")
    assert pipe.safety_checker([1, 2]) == ([1, 2], [False, False])


def test_the_worst_flaw_of_each_picture_is_counted():
    latents = torch.tensor([[1.0], [NAN], [1.0], [float("inf")]])
    sound = torch.tensor([True, False, False, True])
    flaws = flaws_of(latents, sound, [True, False, True, False])
    assert flaws.tolist() == [3, 1, 2, 1]
    assert problem(flaws) == (
        "2 of 4 pictures have NaN or infinite latents and 1 of 4 pictures have NaN or infinite "
        "values and 1 of 4 pictures were flagged by a safety checker"
    )
    assert problem(torch.zeros(4)) == ""


def figures(**flawed):
    """The figures of two pipelines against dense, with these flaws of three pictures each."""
    noise = np.random.default_rng(0)
    names = ("dense", "a", "b")
    pictures = {
        name: [Image.fromarray(noise.integers(255, size=(16, 16, 3), dtype=np.uint8))] * 3
        for name in names
    }
    latents = {name: torch.randn(3, 4, 2, 2) for name in names}
    flaws = {name: torch.zeros(3, dtype=torch.uint8) for name in names}
    for name, values in flawed.items():
        flaws[name] = torch.tensor(values, dtype=torch.uint8)
        latents[name][flaws[name] == Flaw.NOT_FINITE_LATENTS] = NAN
    return all_figures(pictures, latents, "dense", PROMPTS[:3], Judges(), flaws)


def test_a_figure_over_flawed_pictures_has_a_reason_and_the_others_stay():
    found = figures(a=[0, 1, 1])
    for metric in COMPARING:
        assert found["a"][metric]["value"] is None
        assert "2 of 3 pictures have NaN" in found["a"][metric]["why_not"]
        assert found["b"][metric]["value"] is not None
    assert "2 of 3" in found["a"]["lpips"]["why_not"]
    assert "2 of 3" in found["a"]["fid"]["why_not"]
    assert "2 of 3" not in found["b"]["fid"]["why_not"]


def test_flawed_pictures_of_dense_leave_nothing_to_compare_with():
    found = figures(dense=[2, 0, 0])
    for name in ("a", "b"):
        assert found[name]["ssim"]["value"] is None
        assert "of the dense pipeline 1 of 3" in found[name]["ssim"]["why_not"]
        assert found[name]["relative_latent_error"]["value"] is not None  # latents are finite
    assert "1 of 3" in found["dense"]["clip_score"]["why_not"]


def test_a_figure_is_finite_or_has_a_reason():
    assert "1 of 2 values" in mean_of(np.array([1.0, NAN]))["why_not"]
    assert "1 of 2 values" in mean_of(np.array([1.0, np.inf]))["why_not"]
    constant = relative_latent_error(torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1))
    assert constant["value"] is None
    assert "equal" in constant["why_not"]


@pytest.mark.slow
def test_evaluate_and_report_keep_the_other_runs(tmp_path, capsys, prompts_file):
    for name in ("fine", "unet", "vae"):
        with_checker(broken(name)).save_pretrained(tmp_path / name)
    with_checker(sd()).save_pretrained(tmp_path / "base")
    flags = [*("--num-prompts", "2", "--num-inference-steps", "2"), "--rounds", "0"]
    flags += ["--height", "16", "--width", "16"]
    runs = [str(tmp_path / name) for name in ("fine", "unet", "vae")]
    argv = ["evaluate", *runs, "--against", str(tmp_path / "base"), *flags]
    argv += ["--prompts", prompts_file, "--output", str(tmp_path / "run")]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert "without safety_checker" in out
    assert "without safety_checker" in err
    assert "unet: 2 of 2 pictures have NaN" in out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    fine, unet, vae = results["runs"]
    assert results["without"] == ["safety_checker"]
    assert fine["flawed"] == []
    assert [row["picture"] for row in unet["flawed"]] == [0, 1]
    assert fine["metrics"]["ssim"]["value"] == 1
    for metric in COMPARING:
        assert "2 of 2 pictures have NaN" in unet["metrics"][metric]["why_not"]
    assert vae["metrics"]["ssim"]["value"] is None
    assert vae["metrics"]["relative_latent_error"]["value"] == 0
    assert results["dense_weights"] == fine["weights"] != unet["weights"]
    assert "safety_checker" not in results["dense_weights"]
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "run"), "--output", str(page)]) == 0
    assert "without safety_checker" in page.read_text()
    assert "2 of 2 pictures have NaN" in page.read_text()
