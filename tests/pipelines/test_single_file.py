"""Single-file checkpoints through the command line: a config folder, no hub, nothing unpickled."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from obsdiff import UserError
from obsdiff.cli.main import main
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.single_file import open_model
from tests.cli.test_main import refused

from ..conftest import sd, sd3
from ..support.lanes import first_quick
from ..support.original_layout import sd3_transformer, stable_diffusion

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = ["--num-prompts", "2", "--num-inference-steps", "2", "--guidance-scale", "3"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def without_weights(folder: Path, *components: str) -> Path:
    for name in components:
        for file in (folder / name).glob("*.safetensors"):
            file.unlink()
    return folder


@pytest.fixture(scope="module")
def sd_file(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny SD 1.5 in one float16 file, its VAE in float32, and its configs without weights."""
    folder = tmp_path_factory.mktemp("single")
    pipe = sd()
    pipe.save_pretrained(folder / "dense")
    pipe.save_pretrained(folder / "configs")
    without_weights(folder / "configs", "unet", "vae", "text_encoder")
    weights = {
        name: w if name.startswith("first_stage_model") else w.half()
        for name, w in stable_diffusion(pipe).items()
    }
    weights["model_ema.decay"] = torch.ones(1)
    weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(24)[
        None
    ]
    save_file(weights, folder / "sd.safetensors")
    return folder / "sd.safetensors", folder / "configs"


@pytest.fixture(scope="module")
def sd3_file(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny SD3 transformer alone in one file; the config folder has the other weights."""
    folder = tmp_path_factory.mktemp("single")
    pipe = sd3()
    pipe.save_pretrained(folder / "configs")
    without_weights(folder / "configs", "transformer")
    save_file(sd3_transformer(pipe.transformer), folder / "sd3.safetensors")
    return folder / "sd3.safetensors", folder / "configs"


@pytest.mark.parametrize(
    ("file", "make", "component"), [("sd_file", sd, "unet"), ("sd3_file", sd3, "transformer")]
)
def test_a_single_file_is_the_pipeline_it_was_made_from(request, file, make, component):
    file, config = request.getfixturevalue(file)
    pipe, formats = load_pipeline(open_model(str(file), config), device="cpu")
    for name, part in make().components.items():
        if isinstance(part, torch.nn.Module):
            dtype = getattr(torch, formats[name])
            found, expected = getattr(pipe, name).state_dict(), part.to(dtype).state_dict()
            assert all(torch.equal(found[key].to(dtype), w) for key, w in expected.items()), name
    stored = (
        {"unet": "float16", "text_encoder": "float16", "vae": "float32"}
        if component == "unet"
        else dict.fromkeys(formats, "float32")
    )
    assert formats == stored


@pytest.mark.parametrize("pattern", first_quick(["unstructured", "structured"]))
@pytest.mark.slow
def test_prune_a_single_file(sd_file, prompts_file, tmp_path, pattern):
    file, config = sd_file
    out = tmp_path / "out"
    assert (
        main(
            [
                "prune",
                str(file),
                "--config",
                str(config),
                "--output",
                str(out),
                "--prompts",
                prompts_file,
                "--pattern",
                pattern,
                *QUICK,
            ]
        )
        == 0
    )
    record = json.loads((out / "obsdiff.json").read_text())
    assert record["component"] == "unet"
    stored = {name: tensors.dtype for name, tensors in open_folder(out).components.items()}
    assert stored == {"unet": "float16", "text_encoder": "float16", "vae": "float32"}
    pipe = DiffusionPipeline.from_pretrained(out, dtype=torch.float32)
    assert pipe("fish", num_inference_steps=2, output_type="latent").images.isfinite().all()


@pytest.mark.slow
def test_a_single_file_is_pruned_like_the_folder_it_was_made_from(
    sd3_file, sd3_folder, prompts_file, tmp_path
):
    file, config = sd3_file
    whole = tmp_path / "whole"
    sd3().save_pretrained(whole)
    for model, out in (([str(whole)], "a"), ([str(file), "--config", str(config)], "b")):
        assert (
            main(
                [
                    "prune",
                    *model,
                    "--output",
                    str(tmp_path / out),
                    "--prompts",
                    prompts_file,
                    "--pattern",
                    "2:4",
                    *QUICK,
                ]
            )
            == 0
        )
    a, b = (load_file(tmp_path / out / "transformer" / WEIGHTS) for out in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_components_that_the_file_lacks_are_noted(sd_file, sd3_file, tmp_path):
    assert open_model(str(sd_file[0]), sd_file[1]).notes() == []
    file, config = sd3_file
    assert open_model(str(file), config).notes() == [
        f"{file}: holds no text_encoder, text_encoder_2, vae: taken from {config}"
    ]
    checked = Path(shutil.copytree(sd_file[1], tmp_path / "checked"))
    index = json.loads((checked / "model_index.json").read_text())
    (checked / "model_index.json").write_text(
        json.dumps(index | {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]})
    )
    (checked / "safety_checker").mkdir()
    (checked / "safety_checker" / "config.json").write_text("{}")
    folder = open_model(str(sd_file[0]), checked)
    assert folder.notes() == [
        f"{sd_file[0]}: holds no safety_checker, and {checked} has no weights: left out"
    ]
    assert load_pipeline(folder, device="cpu")[0].safety_checker is None


@pytest.mark.slow
def test_inspect_and_evaluate_accept_single_files(sd_file, capsys, prompts_file, tmp_path):
    file, config = sd_file
    assert main(["inspect", str(file), "--config", str(config), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(config.parent / "dense"), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert plan["path"] == str(file)
    assert plan["dtype"] == "float16"
    for key in ("component", "parameters", "layers", "packages", "settings"):
        assert plan[key] == whole[key]
    flags = [
        "--prompts",
        prompts_file,
        "--num-prompts",
        "1",
        "--num-inference-steps",
        "1",
        "--rounds",
        "1",
        "--json",
    ]
    run = [
        "evaluate",
        str(config.parent / "dense"),
        "--against",
        str(file),
        "--config",
        str(config),
        "--output",
        str(tmp_path / "run"),
        *flags,
    ]
    assert main(run) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["dense"] == str(file)
    assert results["dense_cost"]["parameters"] == plan["parameters"]
    assert results["dense_cost"]["memory"]["peak_bytes"] > 0
    assert (
        results["runs"][0]["metrics"]["relative_latent_error"]["value"] < 1e-3
    )  # the file is in half precision


@pytest.mark.slow
def test_without_a_config_one_line_names_the_option(sd_file, sd3_folder, capsys, tmp_path):
    file, config = sd_file
    out = ["--output", str(tmp_path / "out")]
    refused(capsys, ["prune", str(file), *out], "--config FOLDER", "model_index.json")
    refused(capsys, ["prune", str(file), "--config", "nowhere", *out], "'nowhere'", "no folder")
    refused(capsys, ["prune", str(file), "--config", str(tmp_path), *out], "model_index.json")
    refused(capsys, ["prune", sd3_folder, "--config", str(config), *out], "leave --config out")
    refused(capsys, ["inspect", str(file)], "--config FOLDER")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flux-Q4_K_S.gguf", "quantised"),
        ("old.ckpt", "can run code"),
        ("m.bin", "can run code"),
        ("m.PTH", "can run code"),
        ("x", "found the file"),
    ],
)
def test_other_files_are_refused_by_their_names(name, words, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=words) as error:
        open_model(str(tmp_path / name))
    assert name in str(error.value)
    assert "expected a pipeline folder or a .safetensors file" in str(error.value)


@pytest.mark.slow
def test_bad_single_files_are_refused_before_torch_is_imported(sd_file, tmp_path):
    file, config = sd_file
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-10])
    save_file(
        {"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2, 2), "vae.x": torch.ones(1)},
        tmp_path / "lora.safetensors",
    )
    weights = load_file(file)
    save_file(
        {k: w.to(torch.float8_e4m3fn) for k, w in weights.items()}, tmp_path / "fp8.safetensors"
    )
    save_file(
        {k: w for k, w in weights.items() if not k.startswith("first_stage_model")},
        tmp_path / "no-vae.safetensors",
    )
    code = (
        "import sys; from obsdiff.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, 'torch' in sys.modules)"
    )
    save_file(
        {k: w for k, w in weights.items() if k.startswith("first_stage_model")},
        tmp_path / "vae-alone.safetensors",
    )
    save_file({}, tmp_path / "empty.safetensors")
    expected = {
        "vae-alone": "holds no unet: expected a model's weights",
        "empty": "it is empty",
        "cut": "cut off or damaged",
        "lora": "call pipe.fuse_lora(); pipe.unload_lora_weights(); "
        "pipe.save_pretrained(FOLDER), then prune FOLDER",
        "fp8": "F8_E4M3",
        "no-vae": "no weights for vae (no key begins with first_stage_model. or vae.)",
    }
    for name, words in expected.items():
        argv = [
            sys.executable,
            "-c",
            code,
            "prune",
            str(tmp_path / f"{name}.safetensors"),
            "--config",
            str(config),
            "--output",
            str(tmp_path / "out"),
        ]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr.count("\n")) == ("2 False", 1), done.stderr
        assert words in done.stderr


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.2.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
def test_a_key_the_file_lacks_is_named(sd_file, capsys, prompts_file, tmp_path, key):
    """diffusers creates it without memory and reports nothing."""
    file, config = sd_file
    save_file(
        {k: w for k, w in load_file(file).items() if k != key}, tmp_path / "holes.safetensors"
    )
    argv = [
        "prune",
        str(tmp_path / "holes.safetensors"),
        "--config",
        str(config),
        "--output",
        str(tmp_path / "out"),
        "--prompts",
        prompts_file,
        *QUICK,
    ]
    refused(capsys, argv, "holes.safetensors", "lack", key.split(".")[-1], key.split(".")[-2])


def test_a_key_that_diffusers_fails_on_is_named(sd3_file, capsys, prompts_file, tmp_path):
    file, config = sd3_file
    key = "model.diffusion_model.joint_blocks.1.x_block.mlp.fc2.bias"
    save_file(
        {k: w for k, w in load_file(file).items() if k != key}, tmp_path / "holes.safetensors"
    )
    argv = [
        "prune",
        str(tmp_path / "holes.safetensors"),
        "--config",
        str(config),
        "--output",
        str(tmp_path / "out"),
        "--prompts",
        prompts_file,
        *QUICK,
    ]
    refused(capsys, argv, "lack", "joint_blocks.1.x_block.mlp.fc2.bias")


def test_a_config_of_another_model_is_refused(sd_file, sd3_file, capsys, prompts_file, tmp_path):
    argv = [
        "prune",
        str(sd_file[0]),
        "--config",
        str(sd3_file[1]),
        "--output",
        str(tmp_path / "out"),
        "--prompts",
        prompts_file,
        *QUICK,
    ]
    refused(capsys, argv, "sd.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_second_denoiser_is_not_loaded_from_the_same_file(sd_file, tmp_path):
    """A second denoiser has its own weights in the folder, or is refused: the file holds one."""
    file, config = sd_file
    two = Path(shutil.copytree(config, tmp_path / "two"))
    index = json.loads((two / "model_index.json").read_text())
    (two / "model_index.json").write_text(
        json.dumps(index | {"_class_name": "Own", "decoder": ["diffusers", "UNet2DConditionModel"]})
    )
    shutil.copytree(two / "unet", two / "decoder")
    with pytest.raises(UserError, match="no weights for decoder"):
        open_model(str(file), two)
