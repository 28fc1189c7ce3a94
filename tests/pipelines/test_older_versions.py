"""Files of older versions: pruned folders open, unfinished runs are refused by their version."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import FrozenDict

import obsdiff
from obsdiff import PruningConfig, UserError, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.layerwise.journal import FINGERPRINT, Journal
from obsdiff.models.layout import layout_of
from obsdiff.pipelines import save
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.partial_output import open_part
from obsdiff.pipelines.record import RECORD, versions
from obsdiff.pipelines.replaceable import JOB, WORK
from obsdiff.pipelines.verify import verify_folder
from obsdiff.runtime.json_files import read_json, write_json

from ..conftest import PROMPTS, sd3

SMALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
FLAGS = [part for name, v in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(v))]
# the two files that name the pruned class, as version 0.1.0 wrote them when its modules were flat
INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": diffusers.__version__,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": [None, None],
    "transformer": ["obsdiff", "PrunedSD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
CONFIG = {
    "_class_name": "PrunedSD3Transformer2DModel",
    "_diffusers_version": diffusers.__version__,
    "attention_head_dim": 8,
    "caption_projection_dim": 32,
    "dual_attention_layers": [],
    "in_channels": 4,
    "joint_attention_dim": 32,
    "num_attention_heads": 4,
    "num_layers": 3,
    "out_channels": 4,
    "patch_size": 2,
    "pooled_projection_dim": 32,
    "pos_embed_max_size": 8,
    "pruned_layout": {
        "transformer_blocks.1.attn": {"heads": 2},
        "transformer_blocks.1.ff": {"neurons": 64},
        "transformer_blocks.1.ff_context": {"neurons": 64},
    },
    "qk_norm": "rms_norm",
    "sample_size": 8,
}


def unmark_(model) -> None:
    """Make a model one of a version that did not mark removed heads, nor state what was kept."""
    del model._modules["model"]
    kept = {name: value for name, value in model.config.items() if name != "head_marker"}
    model._internal_dict = FrozenDict(kept | {"pruned_layout": layout_of(model)})


@pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
def test_a_folder_pruned_by_an_older_version_opens(tmp_path, monkeypatch):
    """Byte by byte that version's folder: verify compares the two files with the hashes of ours."""
    pipe = sd3()
    config = PruningConfig(method="random", pattern="structured", packages=1, **SMALL)
    report = prune_(pipe, PROMPTS[:1], config)
    unmark_(pipe.transformer)
    monkeypatch.setattr(save, "mark_heads_", lambda denoiser: None)
    folder = save_pruned(pipe, tmp_path / "out", report)
    for name, content in (("model_index.json", INDEX), ("transformer/config.json", CONFIG)):
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    assert verify_folder(folder).layers == len(read_json(folder / RECORD)["layers"]) > 0
    missing = {"text_encoder_3": None, "tokenizer_3": None}
    for opened in (
        DiffusionPipeline.from_pretrained(folder, **missing),
        load_pipeline(open_folder(folder), device="cpu")[0],
    ):
        assert type(opened.transformer) is obsdiff.PrunedSD3Transformer2DModel
        weights = opened.transformer.state_dict()
        assert weights.keys() == pipe.transformer.state_dict().keys()
        for name, weight in pipe.transformer.state_dict().items():
            assert torch.equal(weights[name], weight)


@pytest.mark.slow
def test_an_unfinished_pruning_of_an_older_version_is_refused(
    tmp_path, monkeypatch, capsys, prompts_file
):
    model, output = tmp_path / "model", tmp_path / "out"
    sd3().save_pretrained(model)
    argv = ["prune", str(model), "--output", str(output), "--prompts", prompts_file, *FLAGS]

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", killed)
        assert main(argv) == 1
    (file,) = (tmp_path / "out.part" / WORK).rglob(FINGERPRINT)
    ours = read_json(file)
    write_json(file, ours | {"versions": ours["versions"] | {"obsdiff": "0.0.9"}})
    capsys.readouterr()
    assert main([*argv, "--resume"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert f"versions.obsdiff (0.0.9 there, {ours['versions']['obsdiff']} here)" in line
    assert "--overwrite" in line
    assert not output.exists()
    write_json(file, ours)
    assert main([*argv, "--resume"]) == 0
    assert (output / RECORD).is_file()


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"obsdiff": "0.0.9"}, r"other versions \(obsdiff 0\.0\.9 there, .* here\)"),
        ({"numpy": "1.26"}, r"other versions \(numpy 1\.26 there, none here\)"),
        (None, "other versions;"),
    ],
)
def test_an_unfinished_evaluation_of_an_older_version_is_refused(tmp_path, theirs, words):
    job = {"seeds": [1], "versions": versions()}
    with open_part(tmp_path / "run", job, resume=False, overwrite=False) as part:
        file = part / WORK / JOB
    old = None if theirs is None else versions() | theirs
    write_json(file, job | {"versions": old})
    with (
        pytest.raises(UserError, match=words) as error,
        open_part(tmp_path / "run", job, resume=True, overwrite=False),
    ):
        pass
    assert "\n" not in str(error.value)
    assert read_json(Path(file))["versions"] == old
