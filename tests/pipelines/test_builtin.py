"""The built-in pipelines, through the real command line: the claims of the README, in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from obsdiff import PruningConfig, builtin_path, dense_pass, prune_
from obsdiff.cli.main import main
from obsdiff.config.choices import METHODS
from obsdiff.evaluation.draw import draw
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.pipelines.builtin import BUILTINS, builtin_info, builtin_version
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.prompt_files import read_prompts
from training.third_encoder import READ

SMALL = {"num_inference_steps": 6, "guidance_scale": 4.0, "height": 64, "width": 64}
FLAGS = ["--num-prompts", "4", "--num-inference-steps", "4"]
SHORT = ["--num-prompts", "2", "--num-inference-steps", "3"]
PLAIN = """
import sys, torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
for folder in sys.argv[1:]:
    kind = StableDiffusionPipeline if folder.endswith("unet") else StableDiffusion3Pipeline
    pipe = kind.from_pretrained(folder, dtype=torch.float32)
    noise = torch.Generator().manual_seed(0)
    image = pipe("red apple, noto style", num_inference_steps=2, generator=noise).images[0]
    print(image.size)
assert "obsdiff" not in sys.modules
"""
slow = pytest.mark.slow
# pattern and calibration prompts with which the lead is clear: the only inputs of a UNet's
# cross-attention keys are their few words
CLEAR = {"emoji-sd3": ("2:4", 6), "emoji-unet": ("unstructured", 24)}
SHARED = ("vae", "tokenizer")  # components that emoji-unet shares with emoji-sd3


def drawn_by_plain_diffusers(*folders) -> list[str]:
    """The sizes of the pictures that a process without obsdiff draws."""
    argv = [sys.executable, "-c", PLAIN, *map(str, folders)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def size(folder) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


@pytest.fixture(scope="module")
def path():
    return builtin_path("emoji-sd3")


@pytest.mark.parametrize("model", BUILTINS)
def test_a_builtin_is_small_and_complete(model):
    path = builtin_path(model)
    assert size(path) <= 64e6
    info = builtin_info(path)
    settings = info["settings"]
    assert settings == {
        "num_inference_steps": 25,
        "guidance_scale": settings["guidance_scale"],
        "height": 64,
        "width": 64,
    }
    card = (path / "README.md").read_text()
    assert card.startswith(f"# {model}, version {info['version']}\n")


@pytest.mark.parametrize("model", BUILTINS)
def test_no_prompt_is_in_two_sets(model):
    sets = {
        kind: read_prompts(builtin_path(model) / f"{kind}_prompts.txt")
        for kind in ("calibration", "tuning", "evaluation", "held_out")
    }
    assert {kind: len(set(prompts)) for kind, prompts in sets.items()} == {
        "calibration": 200,
        "tuning": 64,
        "evaluation": 128,
        "held_out": 64,
    }
    assert len(set().union(*sets.values())) == 456


@pytest.mark.parametrize("model", BUILTINS)
def test_no_held_out_name_is_in_another_set(model):
    names = {
        kind: {
            prompt.rpartition(", ")[0]
            for prompt in read_prompts(builtin_path(model) / f"{kind}_prompts.txt")
        }
        for kind in ("calibration", "tuning", "evaluation", "held_out")
    }
    held_out = names.pop("held_out")
    assert not held_out & set().union(*names.values())


def test_records_name_the_version_of_a_builtin(path, tmp_path):
    assert builtin_version(path) == {"emoji-sd3": str(builtin_info(path)["version"])}
    assert builtin_version(tmp_path) == {}
    assert builtin_version("") == {}


def test_heads_and_blocks_of_emoji_sd3(path):
    config = open_folder(path).config("transformer")
    assert (config["attention_head_dim"], config["num_attention_heads"], config["num_layers"]) == (
        64,
        6,
        4,
    )


def test_emoji_unet_is_a_stable_diffusion_pipeline_that_shares_parts(path):
    unet = builtin_path("emoji-unet")
    assert open_folder(unet).pipeline == "StableDiffusionPipeline"
    assert (
        json.loads((unet / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
        == "DDIMScheduler"
    )
    assert size(unet) - sum(size(unet / part) for part in SHARED) <= 30e6
    for part in ("tokenizer/tokenizer.json", "vae/diffusion_pytorch_model.safetensors"):
        assert (unet / part).read_bytes() == (path / part).read_bytes()


def test_the_third_encoder_of_emoji_sd3_carries_the_caption(path):
    """Its tokens differ by caption; behind the caption they are zero (what
    benchmarks/paper/lab.py draws with)."""
    pipe, _ = load_pipeline(open_folder(path))
    found = pipe.encode_prompt(["red apple, noto style", "green car, noto style"], None, None)[0]
    length = pipe.tokenizer_max_length
    assert found.shape[1] == length + 256
    assert not torch.equal(found[0, length : length + 5], found[1, length : length + 5])
    assert found[:, length + READ :].abs().max() < 1e-3


def test_unknown_words_are_spelled_in_bytes(path):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer")
    ids = tokenizer("Ünknown wörd ☂ qxzj").input_ids
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.eos_token_id != 2


def test_inspect_prints_its_path(path, capsys):
    assert main(["inspect", "emoji-sd3", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["path"] == str(path)
    assert (
        plan["layers"],
        plan["units"],
        plan["settings"]["num_inference_steps"],
        plan["prompts"],
    ) == (3 * 12 + 9, 4 * 4, 25, 50)


def test_inspect_counts_the_blocks_of_emoji_unet(capsys):
    """Each of 10 linear layers in 6 units: one on the way down, one in the middle, two on the way
    up."""
    assert main(["inspect", "emoji-unet", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["path"] == str(builtin_path("emoji-unet"))
    assert (plan["layers"], plan["units"], plan["settings"]["num_inference_steps"]) == (
        4 * 10,
        4 * 6,
        25,
    )


@pytest.fixture(scope="module")
def unets(tmp_path_factory) -> Path:
    """A folder for pruned emoji-unets, by method."""
    return tmp_path_factory.mktemp("unets")


@slow
@pytest.mark.parametrize("method", [m for m, kinds in METHODS.items() if kinds != ("depth",)])
def test_every_method_prunes_emoji_unet_in_every_pattern(unets, method, capsys):
    """Pruned by one call of the command line; those of obs opened again and drawn through evaluate:
    opening and drawing depend on the pattern alone."""
    out, patterns = unets / method, [p.replace("n:m", "2:4") for p in METHODS[method]]
    flags = ["--method", method, "--pattern", *patterns, "--sparsity", "0.3"]
    assert main(["prune", "emoji-unet", "--output", str(out), *flags, *SHORT]) == 0
    places = [out] if len(patterns) == 1 else sorted(out.iterdir())
    assert len(places) == len(patterns)
    for place in places:
        record = json.loads((place / "obsdiff.json").read_text())
        version = builtin_version(builtin_path("emoji-unet"))
        assert record["versions"] | version == record["versions"]
        structured = record["config"]["pattern"] == "structured"
        wanted = 0.5 if ":" in record["config"]["pattern"] else 0.3
        assert record["sparsity"] == pytest.approx(wanted, abs=0.05 if structured else 1e-3)
    if method != "obs":
        return
    capsys.readouterr()
    run = [*map(str, places), "--against", "emoji-unet", "--output", str(unets / "run")]
    assert main(["evaluate", *run, *SHORT, "--rounds", "0", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results["runs"]) == len(places)
    for run in results["runs"]:
        assert 0 < run["metrics"]["relative_latent_error"]["value"] < 2
        smaller = run["cost"]["parameters"] < results["dense_cost"]["parameters"]
        assert smaller == (run["config"]["pattern"] == "structured")


@slow
def test_the_command_line_prunes_emoji_sd3_and_plain_diffusers_draws(tmp_path):
    """With both results, and with the built-in models as they are."""
    folders = {None: tmp_path / "out" / "unstructured-0.50", 4: tmp_path / "out" / "2-4"}
    flags = ["--pattern", "unstructured", "2:4", "--sparsity", "0.5"]
    assert main(["prune", "emoji-sd3", "--output", str(tmp_path / "out"), *flags, *SHORT]) == 0
    for group, out in folders.items():
        weights = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
        record = json.loads((out / "obsdiff.json").read_text())
        assert len(record["layers"]) == 45
        for row in record["layers"]:
            w = weights[row["name"] + ".weight"]
            assert w.dtype == torch.float16
            assert (w == 0).float().mean() == pytest.approx(0.5, abs=1e-3)
            assert not group or (w.unflatten(1, (-1, group)) != 0).sum(2).max() <= 2
    drawn = [*folders.values(), *map(builtin_path, BUILTINS)]
    assert drawn_by_plain_diffusers(*drawn) == ["(64, 64)"] * len(drawn)


@slow
@pytest.mark.parametrize("model", BUILTINS)
def test_obs_is_ahead_of_magnitude(model):
    """A smaller relative latent error, on prompts and noise of no calibration."""
    path, (pattern, enough) = builtin_path(model), CLEAR[model]
    folder = open_folder(path)
    calibrate_on = read_prompts(path / "calibration_prompts.txt")
    prompts = read_prompts(path / "evaluation_prompts.txt")[:3]
    seeds = [10_000 + i for i in range(3)]
    few = SMALL | {"num_inference_steps": 4}
    configs = {
        method: PruningConfig(method=method, pattern=pattern, num_prompts=enough, **few)
        for method in ("magnitude", "obs")
    }
    whole, _ = load_pipeline(folder, device="cpu")
    _, latents = draw(whole, prompts, seeds, few)
    errors = {}
    with dense_pass(whole, calibrate_on, list(configs.values())) as dense:
        for method, config in configs.items():
            pipe, _ = load_pipeline(folder, device="cpu")
            prune_(pipe, calibrate_on, config, dense=dense)
            found = relative_latent_error(draw(pipe, prompts, seeds, few)[1], latents)
            errors[method] = found["value"]
    assert 0 < errors["obs"] < errors["magnitude"]


@slow
def test_batch_size_changes_no_more_than_ties(path, capsys):
    """With one dense pass; later packages would depend on earlier ties (docs/log.md)."""
    folder = open_folder(path)
    kept = []
    for batch in (1, 4):
        pipe, _ = load_pipeline(folder, device="cpu")
        few = SMALL | {"num_inference_steps": 3}
        config = PruningConfig(num_prompts=4, batch_size=batch, **few)
        report = prune_(pipe, read_prompts(path / "calibration_prompts.txt"), config)
        kept.append(
            torch.cat(
                [
                    pipe.transformer.get_submodule(row.name).weight.flatten() != 0
                    for row in report.layers
                ]
            )
        )
    differ = (kept[0] != kept[1]).sum().item()
    with capsys.disabled():
        print(f"\nbatch size 1 and 4: {differ} of {len(kept[0])} mask entries differ")
    assert differ / len(kept[0]) < 1e-3


@slow
def test_structured_gets_smaller_and_beats_l1(tmp_path, capsys):
    """Neurons of the inner blocks, through prune and evaluate: at most 0.8 of L1's relative latent
    error (0.56 on version 3), and the shapes of the config."""
    common = ["--pattern", "structured", "--sparsity", "0.3", "--target", "ffn", "--packages", "1"]
    for method in ("obs", "l1"):
        flags = ["--output", str(tmp_path / method), "--method", method, *common, *FLAGS]
        assert main(["prune", "emoji-sd3", *flags]) == 0
    config = json.loads((tmp_path / "obs" / "transformer" / "config.json").read_text())
    weights = load_file(tmp_path / "obs" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert len(config["pruned_layout"]) == 4
    left = 1536 - 464  # 30 %, in multiples of 16
    for owner, counts in config["pruned_layout"].items():
        assert counts.keys() == {"neurons", "neurons_kept"}
        assert counts["neurons"] == left
        assert (
            weights[f"{owner}.net.0.proj.weight"].shape[0]
            == weights[f"{owner}.net.2.weight"].shape[1]
            == left
        )
    capsys.readouterr()
    runs = [
        str(tmp_path / "obs"),
        str(tmp_path / "l1"),
        "--against",
        "emoji-sd3",
        "--output",
        str(tmp_path / "run"),
    ]
    assert main(["evaluate", *runs, *FLAGS, "--rounds", "0", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    obs, l1 = (run["metrics"]["relative_latent_error"]["value"] for run in results["runs"])
    assert 0 < obs <= 0.8 * l1
    for run in results["runs"]:
        assert run["cost"]["neurons"] == {"removed": 4 * (1536 - left), "total": 4 * 1536}
        assert run["cost"]["parameters"] < results["dense_cost"]["parameters"]
        assert run["metrics"]["clip_score"]["value"] > 0
