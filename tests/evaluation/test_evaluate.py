"""obsdiff evaluate through the real command line on tiny pipelines: figures, resuming, refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.functional.multimodal import clip_score
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from transformers import AutoTokenizer, CLIPModel

from obsdiff import PruningConfig, builtin_path, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.evaluation import draw as draw_module
from obsdiff.evaluation.costs import step_macs
from obsdiff.evaluation.draw import draw, draw_checked
from obsdiff.evaluation.judges.clip import Clip
from obsdiff.evaluation.judges.hpsv3.reward import load_hpsv3
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.evaluation.peak_memory import peak_memory
from obsdiff.evaluation.report.schema import check_results
from obsdiff.pipelines.run import denoiser_call
from obsdiff.runtime.timing import compared, interleaved

from ..conftest import PROMPTS, sd, sd3
from .judges.hpsv3.tiny import make_hpsv3

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
EMOJI_CLIP = builtin_path("emoji-clip")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
FLAGS = [
    "--num-prompts",
    "3",
    "--num-inference-steps",
    "2",
    "--guidance-scale",
    "3",
    "--height",
    "16",
    "--width",
    "16",
    "--batch-size",
    "2",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A dense pipeline, a structured and an unstructured one, and another class."""
    folder = tmp_path_factory.mktemp("models")
    sd3().save_pretrained(folder / "whole")
    sd().save_pretrained(folder / "unet")
    for name, changes in {
        "narrow": {"pattern": "structured", "sparsity": 0.4},
        "sparse": {"sparsity": 0.5},
    }.items():
        pipe = sd3()
        save_pruned(
            pipe,
            folder / name,
            prune_(pipe, PROMPTS[:2], PruningConfig(packages=1, **changes, **QUICK)),
        )
    return {name: folder / name for name in ("whole", "unet", "narrow", "sparse")}


@pytest.fixture
def argv(models, prompts_file, tmp_path) -> list[str]:
    runs = [str(models["narrow"]), str(models["sparse"])]
    return [
        "evaluate",
        *runs,
        "--against",
        str(models["whole"]),
        "--output",
        str(tmp_path / "run"),
        "--prompts",
        prompts_file,
        *FLAGS,
    ]


@pytest.fixture
def one_run(argv, models) -> list[str]:
    """The structured pipeline alone, and nothing is timed."""
    return [word for word in argv if word != str(models["sparse"])] + ["--rounds", "0"]


@pytest.mark.slow
def test_figures_are_those_of_the_pipelines(one_run, models, tmp_path, capsys):
    """Timed, and the memory of each pipeline measured in a process of its own."""
    assert main([*one_run[:-1], "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["schema"] == 1
    assert [run["name"] for run in results["runs"]] == ["narrow"]
    record = json.loads((models["narrow"] / "obsdiff.json").read_text())
    (narrow,) = (run["cost"] for run in results["runs"])
    assert narrow["heads"] == {"removed": 2, "total": 4}
    assert narrow["neurons"]["removed"] == sum(
        len(g["removed"]) for g in record["groups"] if g["kind"] == "neurons"
    )
    dense = results["dense_cost"]
    assert narrow["parameters"] < dense["parameters"]
    assert narrow["macs"]["total"] < dense["macs"]["total"]
    assert narrow["step"]["rounds"] == 4
    assert narrow["picture"]["rounds"] == 1
    assert narrow["step"]["low"] <= narrow["step"]["speedup"] <= narrow["step"]["high"]
    assert narrow["memory"]["peak_bytes"] > narrow["memory"]["weights_bytes"] > 0
    files = sorted(
        str(f.relative_to(tmp_path / "run")) for f in (tmp_path / "run").rglob("*") if f.is_file()
    )
    pictures = [image for run in results["runs"] for image in run["images"]] + results[
        "dense_images"
    ]
    assert files == sorted([*pictures, "results.json"])
    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "page.html")]) == 0


@pytest.mark.slow
def test_the_error_is_that_of_drawing_by_hand(argv, models, tmp_path, capsys):
    from diffusers import DiffusionPipeline

    assert main([*argv, "--rounds", "0"]) == 0
    table = capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [run["name"] for run in results["runs"]] == ["narrow", "sparse"]
    run, dense = results["runs"][1], results["dense_cost"]
    assert run["cost"]["parameters"] == dense["parameters"]
    assert run["cost"]["macs"]["total"] == dense["macs"]["total"]
    assert run["cost"]["zeros"] > 0.1 * dense["parameters"]
    latents = []
    for name in ("sparse", "whole"):
        pipe = DiffusionPipeline.from_pretrained(
            models[name], text_encoder_3=None, tokenizer_3=None
        )
        latents.append(draw(pipe, PROMPTS[:3], [1_000_000 + i for i in range(3)], QUICK, 2)[1])
    by_hand = relative_latent_error(*latents)
    assert run["metrics"]["relative_latent_error"]["value"] == pytest.approx(
        by_hand["value"], rel=1e-3
    )
    assert f"{by_hand['value']:.4f}" in table
    assert "step" not in run["cost"]
    assert "speed of a step" not in table  # what was not measured has no column


@pytest.mark.slow
def test_a_killed_run_resumes(one_run, tmp_path, capsys, monkeypatch):
    assert main(one_run) == 0
    whole = json.loads((tmp_path / "run" / "results.json").read_text())
    shutil.rmtree(tmp_path / "run")
    drawn = []

    def dying(pipe, prompts, *rest):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(prompts)
        return draw_checked(pipe, prompts, *rest)

    monkeypatch.setattr(draw_module, "draw_checked", dying)
    assert main(one_run) == 1
    assert "continue with --resume" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(one_run) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*one_run, "--seed", "7", "--resume"]) == 2
    assert "begun with other seeds" in capsys.readouterr().err
    file = tmp_path / "run.part" / ".work" / "costs" / "00-dense.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"parameters": 1')  # cut off by the kill
    (
        tmp_path / "run.part" / "images" / "00-dense" / "002.png"
    ).unlink()  # lost, with its batch's latents still there
    latents = tmp_path / "run.part" / ".work" / "latents" / "00-dense" / "000000.safetensors"
    raw = bytearray(latents.read_bytes())
    raw[-2] ^= 255
    latents.write_bytes(raw)
    drawn.clear()
    monkeypatch.setattr(
        draw_module,
        "draw_checked",
        lambda pipe, prompts, *rest: drawn.append(prompts) or draw_checked(pipe, prompts, *rest),
    )
    assert main([*one_run, "--resume"]) == 0
    assert len(drawn) == 3  # of 4 batches: one was whole
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [r["metrics"] for r in again["runs"]] == [r["metrics"] for r in whole["runs"]]
    assert not (tmp_path / "run.part").exists()


@pytest.mark.slow
def test_a_finished_run_says_so(one_run, tmp_path, capsys, monkeypatch):
    assert main(one_run) == 0
    file = tmp_path / "run" / "results.json"
    whole = file.read_bytes()
    drawn = []

    def counted(pipe, prompts, *rest):
        drawn.append(prompts)
        return draw_checked(pipe, prompts, *rest)

    monkeypatch.setattr(draw_module, "draw_checked", counted)
    capsys.readouterr()
    assert main([*one_run, "--resume", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "was finished already" in err
    assert json.loads(out) == json.loads(whole)
    assert main([*one_run, "--resume", "--seed", "7"]) == 2
    assert "other seeds" in capsys.readouterr().err
    file.write_text(json.dumps(json.loads(whole) | {"runs": 5}))
    assert main([*one_run, "--resume"]) == 2
    assert "results.json is damaged: runs" in capsys.readouterr().err
    file.write_bytes(whole)
    picture = tmp_path / "run" / "images" / "00-dense" / "001.png"
    picture.unlink()
    assert main([*one_run, "--resume"]) == 2
    assert "00-dense/001.png is missing" in capsys.readouterr().err
    assert not drawn
    assert main([*one_run, "--resume", "--overwrite"]) == 0
    assert drawn
    assert picture.is_file()


@pytest.mark.slow
def test_pipelines_that_cannot_be_compared_are_refused_in_one_line(
    argv, models, tmp_path, capsys, prompts_file
):
    def refused(flags: list[str], *words: str) -> None:
        assert main(flags) == 2
        errors = [
            line
            for line in capsys.readouterr().err.splitlines()
            if not line.startswith(("measuring", "narrow:", "sparse:"))
        ]
        assert len(errors) == 1
        assert errors[0].startswith("error: ")
        assert all(word in errors[0] for word in words), errors

    common = ["--output", str(tmp_path / "run"), "--prompts", prompts_file]
    refused(["evaluate", str(models["narrow"]), *common], "--against")
    refused(
        ["evaluate", str(models["narrow"]), "--against", str(models["unet"]), *common],
        "StableDiffusionPipeline",
        "StableDiffusion3Pipeline",
        "one class",
    )
    other = Path(shutil.copytree(models["narrow"], tmp_path / "other"))
    config = json.loads((other / "transformer" / "config.json").read_text())
    (other / "transformer" / "config.json").write_text(json.dumps(config | {"sample_size": 64}))
    refused(
        ["evaluate", str(other), "--against", str(models["whole"]), *common], "sample_size 8", "64"
    )
    (other / "transformer" / "config.json").write_text(json.dumps(config))
    file = other / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_out_channels": [4, 8, 16]}))
    refused(
        ["evaluate", str(other), "--against", str(models["whole"]), *common],
        "vae",
        "block_out_channels [8, 16]",
        "[4, 8, 16]",
    )
    refused(
        [
            "evaluate",
            str(models["narrow"]),
            str(models["narrow"]),
            "--against",
            str(models["whole"]),
            *common,
        ],
        "twice",
    )
    for text in ("", "\n  \n"):
        (tmp_path / "empty.txt").write_text(text)
        refused([*argv, "--prompts", str(tmp_path / "empty.txt")], "empty.txt")
    refused([*argv, "--num-prompts", "0"], "num_prompts")
    (tmp_path / "run").mkdir()
    refused(argv, "--overwrite")
    (tmp_path / "file").touch()
    for place, word in (
        (".", "name of a folder"),
        (str(tmp_path / "file"), "is a file"),
        (str(tmp_path / "file" / "x"), "is a file"),
        ("/proc/x", "/proc"),
    ):
        refused([*argv, "--overwrite", "--output", place], word)
    for place in (models["narrow"], models["narrow"] / "inside", models["narrow"].parent):
        refused([*argv, "--overwrite", "--output", str(place)], "overlap")
    (tmp_path / "mine.part").mkdir()
    refused([*argv, "--overwrite", "--output", str(tmp_path / "mine")], "in the way")
    refused(
        [*argv, "--height", "13", "--output", str(tmp_path / "new"), "--rounds", "0"],
        "expected multiples of 4",
        "found height 13",
    )
    refused(
        [*argv, "--component", "vae", "--output", str(tmp_path / "vae"), "--rounds", "0"],
        "AutoencoderKL",
    )
    refused([*argv, "--seed", str(2**64)], "seed")
    refused(
        [
            "evaluate",
            str(tmp_path / "typo"),
            "--against",
            str(models["whole"]),
            "--output",
            str(tmp_path / "new"),
        ],
        "typo",
    )
    assert (models["narrow"] / "model_index.json").is_file()
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_both_draw_with_one_scheduler(models, prompts_file, tmp_path, capsys):
    """Another setting or class is refused in one line.

    A file without the defaults, as older versions wrote it, is the same scheduler.
    """
    other = Path(shutil.copytree(models["sparse"], tmp_path / "other"))
    file, index = other / "scheduler" / "scheduler_config.json", other / "model_index.json"
    config, whole_index = json.loads(file.read_text()), json.loads(index.read_text())
    argv = [
        "evaluate",
        str(other),
        "--against",
        str(models["whole"]),
        "--output",
        str(tmp_path / "run"),
        "--prompts",
        prompts_file,
        *FLAGS,
        "--rounds",
        "0",
    ]

    def refused(*words: str) -> None:
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
        assert all(word in err for word in words), err
        assert list(tmp_path.glob("run*")) == []

    file.write_text(json.dumps(config | {"shift": 3.0}))
    refused("scheduler of", "shift 1.0", "has 3.0")
    file.write_text(json.dumps(config | {"num_train_timesteps": "many"}))
    refused(str(file), "FlowMatchEulerDiscreteScheduler")
    file.write_text(json.dumps(config))
    index.write_text(
        json.dumps(whole_index | {"scheduler": ["diffusers", "FlowMatchHeunDiscreteScheduler"]})
    )
    refused("class FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
    index.write_text(json.dumps(whole_index | {"scheduler": ["mine", "MyScheduler"]}))
    refused("scheduler", "diffusers", "mine")
    index.write_text(json.dumps(whole_index))
    file.rename(file.with_name("config_of_old.json"))
    refused("scheduler_config.json is missing")
    file.write_text(
        json.dumps(
            {"_class_name": config["_class_name"], "_diffusers_version": "0.29.0", "shift": 1.0}
        )
    )
    assert main(argv) == 0


@pytest.mark.slow
def test_odd_names_keep_runs_apart(models, prompts_file, tmp_path, capsys):
    names = ["a b", "a-b", "dense!", "@@", ".work"]
    folders = [
        Path(shutil.copytree(models["sparse" if i % 2 else "narrow"], tmp_path / "m" / name))
        for i, name in enumerate(names)
    ]
    argv = [
        "evaluate",
        *map(str, folders),
        "--against",
        str(models["whole"]),
        "--output",
        str(tmp_path / "run"),
        "--prompts",
        prompts_file,
        *FLAGS,
    ]
    assert main([*argv, "--rounds", "0", "--num-prompts", "1", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["name"] for run in runs] == names
    assert len({image for run in runs for image in run["images"]}) == len(names)
    assert [run["cost"]["zeros"] for run in runs] == [
        runs[i % 2]["cost"]["zeros"] for i in range(len(names))
    ]
    assert all((tmp_path / "run" / image).is_file() for run in runs for image in run["images"])


def test_a_folder_with_two_variants_is_counted_once(models, tmp_path):
    from obsdiff.evaluation.costs import cost_on_disk
    from obsdiff.pipelines.folder import open_folder

    both = Path(shutil.copytree(models["whole"], tmp_path / "both"))
    weights = both / "transformer" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert cost_on_disk(open_folder(both).components["transformer"]) == cost_on_disk(
        open_folder(models["whole"]).components["transformer"]
    )


def test_general_prompts_to_evaluate_are_not_those_to_calibrate():
    from obsdiff.pipelines.general_prompts import EVALUATION_FILE, general_prompts
    from obsdiff.pipelines.prompt_files import read_prompts

    calibration, evaluation = set(general_prompts()), set(read_prompts(EVALUATION_FILE))
    assert len(evaluation) >= 64
    assert not calibration & evaluation


def test_medians_and_ratios_by_hand():
    seconds = {"dense": [4.0, 8.0, 6.0], "pruned": [2.0, 2.0, 6.0]}
    found = compared(seconds, "pruned", "dense")
    assert (found["seconds"], found["dense_seconds"], found["speedup"], found["rounds"]) == (
        2.0,
        6.0,
        2.0,
        3,
    )
    order = []
    interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b", "a", "b", "b", "a"]


def test_macs_of_a_step_count_both_guidance_halves(sd3_pipe):
    one = step_macs(
        sd3_pipe.transformer,
        denoiser_call(sd3_pipe, sd3_pipe.transformer, "fish", QUICK | {"guidance_scale": 1.0}),
    )
    two = step_macs(
        sd3_pipe.transformer, denoiser_call(sd3_pipe, sd3_pipe.transformer, "fish", QUICK)
    )
    assert two["total"] == 2 * one["total"] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_macs_of_half_precision_are_counted(sd3_pipe, dtype):
    call = denoiser_call(sd3_pipe, sd3_pipe.transformer, "fish", QUICK)
    half = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) else value
        for name, value in call.items()
    }
    wanted = step_macs(sd3_pipe.transformer, call)
    assert step_macs(sd3_pipe.transformer.to(dtype), half) == wanted
    assert wanted["total"]


def test_a_model_that_needs_data_has_a_reason_instead_of_macs(sd3_pipe):
    found = step_macs(sd3_pipe.vae, {"sample": torch.zeros(1, 5, 16, 16)})
    assert found["total"] is None
    assert "AutoencoderKL" in found["why_not"]


@pytest.mark.slow
def test_memory_that_cannot_be_measured_has_a_reason(tmp_path):
    found = peak_memory(tmp_path, {}, "fish")
    assert found["peak_bytes"] is None
    assert "model_index.json" in found["why_not"]


@pytest.mark.slow
def test_metrics_are_those_of_the_saved_pictures(argv, tmp_path, capsys):
    flags = [
        "--clip",
        str(EMOJI_CLIP),
        "--features",
        str(EMOJI_CLIP),
        "--real",
        str(EMOJI_CLIP / "real.safetensors"),
        "--rounds",
        "0",
    ]
    assert main([*argv, *flags]) == 0
    table = capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["judges"] == {
        "clip": "emoji-clip",
        "features": "emoji-clip",
        "real": "emoji-clip/real.safetensors",
    }
    assert set(results["dense_metrics"]) == {
        "fid",
        "kid",
        "clip_score",
        "pickscore",
        "image_reward",
        "hpsv3",
        "geneval",
        "dpg",
    }
    for images, metrics in [
        (results["dense_images"], results["dense_metrics"]),
        *((run["images"], run["metrics"]) for run in results["runs"]),
    ]:
        pictures = [Image.open(tmp_path / "run" / file) for file in images]
        assert metrics["clip_score"]["per_prompt"] == pytest.approx(
            list(Clip(EMOJI_CLIP).clip_scores(pictures, PROMPTS[:3])), rel=1e-4
        )
        assert metrics["fid"]["value"] > 0
        assert "--pickscore" in metrics["pickscore"]["why_not"]
    assert set(results["runs"][0]["metrics"]) == set(results["dense_metrics"]) | {
        "relative_latent_error",
        "psnr",
        "ssim",
        "lpips",
    }
    assert "CLIP score" in table
    assert (
        "no PickScore model was given: --pickscore yuvalkirstain/PickScore_v1 --download" in table
    )
    assert "  PickScore" not in table  # no column


@pytest.mark.slow
def test_hpsv3_is_scored_from_its_folder_or_listed_with_what_it_needs(one_run, tmp_path, capsys):
    assert main(one_run) == 0
    missing = "HPSv3: not run: no HPSv3 was given: --hpsv3 FOLDER with HPSv3.safetensors of"
    assert missing in " ".join(capsys.readouterr().out.split())
    folder = make_hpsv3(tmp_path / "hpsv3")
    assert main([*one_run, "--overwrite", "--hpsv3", str(folder)]) == 0
    output = capsys.readouterr()
    assert "HPSv3: not run" not in output.out
    assert "  HPSv3" in output.out  # a column
    assert "Loading weights" not in output.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["judges"]["hpsv3"] == str(folder)
    judge, (run,) = load_hpsv3(folder), results["runs"]
    for files, metrics in (
        (results["dense_images"], results["dense_metrics"]),
        (run["images"], run["metrics"]),
    ):
        pictures = [Image.open(tmp_path / "run" / file) for file in files]
        scores = judge.scores(pictures, results["prompts"])
        assert metrics["hpsv3"]["per_prompt"] == pytest.approx(list(scores), abs=1e-5)
        assert f"{metrics['hpsv3']['value']:.2f}" in output.out
    check_results(results)


@pytest.mark.slow
def test_fid_kid_and_clip_score_are_torchmetrics_called_directly(argv, tmp_path):
    """results.json has torchmetrics' figures of the saved pictures and prompts, for one CLIP."""
    emoji = CLIPModel.from_pretrained(EMOJI_CLIP, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(EMOJI_CLIP)
    side = emoji.config.vision_config.image_size
    (tmp_path / "real").mkdir()
    for i in range(3):
        draws = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(draws).save(tmp_path / "real" / f"{i}.png")

    def read(files: list[Path]) -> torch.Tensor:
        pictures = [
            Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            for file in files
        ]
        return torch.stack(
            [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
        )

    class Tower(nn.Module):
        num_features = emoji.config.projection_dim

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return (
                emoji.visual_projection(
                    emoji.vision_model(pixel_values=pictures.float() / 127.5 - 1).pooler_output
                )
                .detach()
                .double()
            )

    class Embeds(nn.Module):
        config = emoji.config

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return Tower()(pixels)

        def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (
                emoji.text_projection(
                    emoji.text_model(input_ids=ids, attention_mask=mask).pooler_output
                )
                .detach()
                .double()
            )

    def process(text=None, images=None, **_):
        return (
            tokens(text, padding=True, return_tensors="pt")
            if text is not None
            else {"pixel_values": torch.stack(list(images))}
        )

    assert (
        main(
            [
                *argv,
                "--clip",
                str(EMOJI_CLIP),
                "--features",
                str(EMOJI_CLIP),
                "--real",
                str(tmp_path / "real"),
                "--rounds",
                "0",
            ]
        )
        == 0
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    real = read(sorted((tmp_path / "real").iterdir()))
    for images, figures in [
        (results["dense_images"], results["dense_metrics"]),
        *((run["images"], run["metrics"]) for run in results["runs"]),
    ]:
        drawn = read([tmp_path / "run" / file for file in images])
        distance, kernel = (
            FrechetInceptionDistance(Tower()).set_dtype(torch.float64),
            KernelInceptionDistance(Tower(), subsets=1, subset_size=3),
        )
        for metric in (distance, kernel):
            metric.update(drawn, real=False)
            metric.update(real, real=True)
        assert figures["fid"]["value"] == pytest.approx(distance.compute().item(), rel=1e-5)
        assert figures["kid"]["value"] == pytest.approx(kernel.compute()[0].item(), rel=1e-5)
        theirs = clip_score(list(drawn), results["prompts"], lambda: (Embeds(), process)).item()
        assert theirs > 0  # where torchmetrics does not clip it
        assert figures["clip_score"]["value"] == pytest.approx(theirs, rel=1e-4)
        assert all(
            figure["low"] <= figure["value"] <= figure["high"]
            for figure in figures.values()
            if figure["value"] is not None
        )


@pytest.mark.slow
def test_the_table_warns_that_one_prompt_has_no_interval(one_run, capsys):
    assert main([*one_run, "--num-prompts", "1"]) == 0
    assert "one prompt has no spread" in capsys.readouterr().out


def test_a_wrong_judge_is_one_line_before_anything_is_drawn(argv, tmp_path, capsys):
    for flag, word in (
        ("--clip", "model_type"),
        ("--real", "no pictures"),
        ("--lpips", "file of weights"),
        ("--image-reward", "ImageReward"),
        ("--hpsv3", "Qwen2-VL-7B-Instruct"),
    ):
        (tmp_path / "none").mkdir(exist_ok=True)
        (tmp_path / "none" / "config.json").write_text("{}")
        assert main([*argv, flag, str(tmp_path / "none")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {flag.removeprefix('--')}: ")
        assert error.count("\n") == 1
        assert word in error
    assert not (tmp_path / "run.part").exists()
