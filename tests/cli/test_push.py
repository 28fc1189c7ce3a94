"""`obsdiff push` against a small hub on loopback and the real client."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest
from PIL import Image

import obsdiff
from obsdiff import PruningConfig
from obsdiff.cli.main import main
from obsdiff.evaluation.weights import weight_hashes
from obsdiff.export.dense_card import read_header
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.hub import find_model
from obsdiff.pipelines.published import PLACE

from ..conftest import PROMPTS, sd3
from ..support.fake_hub import files_of
from ..support.upload_hub import TOKEN, UploadHub, upload_hub

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
DENSE_CARD = """---
license: other
license_name: tiny-licence
license_link: LICENSE.md
pipeline_tag: text-to-image
tags: [dense]
---
# dense
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A structured result."""
    pipe = sd3()
    settings = {"num_inference_steps": 1, "height": 16, "width": 16, "packages": 1}
    config = PruningConfig(pattern="structured", sparsity=0.5, round_to=1, **settings)
    report = obsdiff.prune_(pipe, PROMPTS[:1], config)
    return obsdiff.save_pruned(pipe, tmp_path_factory.mktemp("push") / "out", report)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[UploadHub]:
    """A hub with the dense model's repository, for the client in this process."""
    dense = tmp_path / "dense"
    dense.mkdir()
    (dense / "README.md").write_text(DENSE_CARD)
    (dense / "LICENSE.md").write_text("the licence")
    with upload_hub(tmp_path / "hub", {"ab/dense": dense}) as found:
        template = f"{found.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in {
            "ENDPOINT": found.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(hub_constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def run_of(folder: Path, place: Path) -> Path:
    """An evaluation of a folder, as `obsdiff evaluate` writes it."""
    place.mkdir()
    for name in ("dense.png", "out.png"):
        Image.new("RGB", (16, 16), "red").save(place / name)
    figure = {"value": 0.25, "low": 0.2, "high": 0.3, "why_not": None}
    cost = {"parameters": 1000, "zeros": 10, "bytes_on_disk": 4000}
    run = {
        "name": "out",
        "cost": cost,
        "metrics": {"relative_latent_error": figure},
        "layers": [],
        "images": ["out.png"],
        "weights": weight_hashes(open_folder(folder)),
    }
    results = {
        "schema": 1,
        "dense": "dense",
        "dense_images": ["dense.png"],
        "dense_cost": cost,
        "runs": [run],
        "prompts": ["a red apple"],
        "seeds": [1],
    }
    (place / "results.json").write_text(json.dumps(results))
    return place


@pytest.mark.slow
def test_a_push_has_card_licence_and_figures_and_sends_nothing_twice(hub, saved, tmp_path, capsys):
    words = ["push", str(saved), "me/small", "--base-model", "ab/dense", "--private"]
    words += ["--evaluation", str(run_of(saved, tmp_path / "run"))]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "me/small (private, if it is not there yet)" in said
    assert "nothing was sent" in said
    assert WEIGHTS in said
    assert "license_name: tiny-licence" in said
    assert (hub.commits, hub.uploaded) == ([], [])

    assert main(words) == 0
    there = hub.models["me/small"]
    assert hub.private == {"me/small"}
    assert set(files_of(there)) == {*files_of(saved), "LICENSE.md", "strip.png"}
    assert (there / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert (there / "LICENSE.md").read_text() == "the licence"
    header, body = read_header(there / "README.md")
    assert header == {
        "library_name": "obsdiff",
        "tags": ["obsdiff", "pruned"],
        "base_model": ["ab/dense"],
        "base_model_relation": "finetune",
        "pipeline_tag": "text-to-image",
        "license": "other",
        "license_name": "tiny-licence",
        "license_link": "LICENSE.md",
    }
    assert PLACE in (saved / "README.md").read_text()  # the folder's card stays
    assert PLACE not in body
    for part in (
        '"me/small"',
        "import obsdiff",
        "obsdiff prune ab/dense --from obsdiff.json",
        "| relative latent error | 0 | 0.2500 (0.2000 to 0.3000) |",
        "(strip.png)",
    ):
        assert part in body
    with Image.open(there / "strip.png") as strip:
        assert strip.size == (128, 256)

    by_name = open_folder(find_model("me/small"))
    assert by_name.config("transformer")["pruned_layout"]

    hub.uploaded.clear()
    assert main(words) == 0
    assert len(hub.commits) == 1
    assert hub.uploaded == []
    assert "0 files sent" in capsys.readouterr().err
    (there / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert main(["verify", str(there)]) == 0  # as it is downloaded

    (there / "transformer" / "old.safetensors").write_bytes(b"x")
    assert main(words) == 2
    assert "other weights (transformer/old.safetensors)" in capsys.readouterr().err
    hub.private.clear()
    assert main(words) == 2
    assert "is public; nothing was sent" in capsys.readouterr().err


@pytest.mark.slow
def test_a_push_that_broke_off_goes_on(hub, saved, capsys):
    words = ["push", str(saved), "me/small", "--base-model", "ab/dense"]
    hub.lost = 1
    assert main(words) == 1
    assert "the upload broke off" in (said := capsys.readouterr().err)
    assert "the same command continues it" in said
    assert hub.commits == []
    assert len(hub.uploaded) == 1
    hub.lost, first = None, hub.uploaded.copy()
    hub.uploaded.clear()
    assert main(words) == 0
    assert not set(first) & set(hub.uploaded)
    assert set(files_of(saved)) <= set(files_of(hub.models["me/small"]))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["small"], "repository: expected OWNER/NAME"),
        (["me/small"], "license: expected that of the dense model"),
        (["me/small", "--base-model", "dense"], "base-model: expected OWNER/NAME"),
        (["me/small", "--base-model", "ab/other"], "the hub has no such model"),
    ],
)
@pytest.mark.slow
def test_wrong_words_are_one_line(hub, saved, capsys, words, problem):
    assert main(["push", str(saved), *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert problem in line
    assert hub.uploaded == []


def test_logins_and_the_network_are_needed(hub, saved, tmp_path, capsys, monkeypatch):
    words = ["push", str(saved), "me/small", "--base-model", "ab/dense"]

    def error(*more: str) -> str:
        assert main([*words, *more]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    hub.read_only = True
    assert "a token that may write there: hf auth login" in error()
    with monkeypatch.context() as changed:
        changed.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        changed.delenv("HF_TOKEN")
        assert "found none; log in" in error()
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in error()
    assert "the licence of ab/dense is needed" in error("--dry-run")
    assert hub.uploaded == []


def test_only_unchanged_results_of_obsdiff_are_pushed(hub, saved, sd3_folder, tmp_path, capsys):
    assert main(["push", str(sd3_folder), "me/small"]) == 2
    assert "expected a folder that obsdiff prune wrote" in capsys.readouterr().err
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    words = ["push", str(folder), "me/small", "--dry-run"]
    assert main(words) == 0  # the owner's own licence
    assert "license: mit" in capsys.readouterr().out
    run = run_of(folder, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    results["runs"][0]["weights"]["vae"] = "0" * 64
    (run / "results.json").write_text(json.dumps(results))
    assert main([*words, "--evaluation", str(run)]) == 2
    assert "found other weights" in capsys.readouterr().err
    (folder / "scheduler" / "notes.txt").write_text("a note")
    assert main(["push", str(folder), "me/small"]) == 1
    assert "scheduler/notes.txt is not in the record" in capsys.readouterr().err
    assert hub.uploaded == []


def test_an_interrupted_push_says_how_to_go_on(hub, saved, capsys, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("obsdiff.cli.push.push_files", stopped)
    assert main(["push", str(saved), "me/small", "--base-model", "ab/dense"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == "interrupted; the same command continues it"
