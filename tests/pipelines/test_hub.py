"""Models by their names; those of a hub against a small hub on loopback and the real client."""

import json
import shutil
from pathlib import Path

import pytest

from obsdiff.errors import UserError
from obsdiff.pipelines.hub import find_model, readable
from tests.support.fake_hub import FakeHub, fake_hub

OPEN = """
import sys
from obsdiff.errors import RunFailed, UserError
from obsdiff.pipelines.single_file import open_model
try:
    folder = open_model("ab/model", weights={weights}, variant={variant!r})
    print(sorted((name, t.variant, bool(t.files)) for name, t in folder.components.items()))
except (UserError, RunFailed) as error:
    print(type(error).__name__, error)
print(sorted(set(sys.modules) & {{"torch", "diffusers", "transformers", "numpy"}}))
"""


def opened(hub: FakeHub, cache: Path, weights: bool = True, variant: str | None = None, **more):
    """Open ab/model in a process; return what it printed, and what it said."""
    done = hub.run(OPEN.format(weights=weights, variant=variant), cache, **more)
    assert done.returncode == 0, done.stderr
    out, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    return out, done.stderr.strip()


@pytest.fixture
def repository(sd3_folder, tmp_path):
    """A pipeline as hubs have it: two variants, pickles, a whole checkpoint, a picture."""
    folder = Path(shutil.copytree(sd3_folder, tmp_path / "repository"))
    for component in ("transformer", "vae"):
        name = folder / component / "diffusion_pytorch_model"
        shutil.copy(f"{name}.safetensors", f"{name}.fp16.safetensors")
        Path(f"{name}.bin").write_bytes(b"pickle")
    (folder / "whole.safetensors").write_bytes(b"x" * 5000)
    (folder / "picture.png").write_bytes(b"x")
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text("{}")
    return folder


def expected(folder: Path, endings: tuple[str, ...], without: tuple[str, ...]) -> set[str]:
    """The files of the components with some endings."""
    index = json.loads((folder / "model_index.json").read_text())
    named = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    names = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    return {"model_index.json"} | {
        name
        for name in names
        if name.split("/")[0] in named
        and name.endswith(endings)
        and not any(word in name for word in without)
    }


def test_unknown_models(tmp_path):
    with pytest.raises(UserError, match="'no-such-model'"):
        find_model("no-such-model")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="found the file"):
        find_model(str(tmp_path / "file"))
    assert find_model(str(tmp_path)) == tmp_path


def test_sizes_for_people():
    assert [readable(n) for n in (12, 1500, 2.25e6, 6.9e9)] == [
        "12 bytes",
        "1.5 kB",
        "2.2 MB",
        "6.9 GB",
    ]


@pytest.mark.slow
def test_a_plan_fetches_json_and_a_run_the_rest(repository, tmp_path):
    with fake_hub({"ab/model": repository}) as hub:
        out, said = opened(hub, tmp_path / "cache", weights=False)
        assert "('transformer', None, False)" in out
        small = expected(repository, (".json",), ())
        assert set(hub.sent) == small
        assert len(hub.sent) == len(small)  # each once
        counted = small - {"model_index.json"}  # which names the others
        size = sum((repository / name).stat().st_size for name in counted)
        assert said == f"ab/model: downloads {readable(size)} ({len(counted)} files) from the hub"

        hub.sent.clear()
        out, said = opened(hub, tmp_path / "cache")
        assert "('transformer', None, True)" in out
        rest = expected(repository, (".json", ".txt", ".model", ".safetensors"), ("fp16",)) - small
        assert set(hub.sent) == rest  # what the cache has is not counted again
        size = sum((repository / name).stat().st_size for name in rest)
        assert f"downloads {readable(size)} ({len(rest)} files)" in said

        hub.sent.clear()
        assert opened(hub, tmp_path / "cache")[1] == ""
        assert hub.sent == []

        out, said = opened(hub, tmp_path / "cache", variant="fp16")
        assert sorted(hub.sent) == [
            "transformer/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
        ]
        assert "('transformer', 'fp16', True)" in out
        assert "('text_encoder', None, True)" in out


@pytest.mark.slow
def test_gated_unknown_and_pickled(repository, tmp_path):
    with fake_hub({"ab/model": repository}) as hub:
        hub.gated.add("ab/model")
        assert opened(hub, tmp_path / "cache")[0] == (
            "UserError model: ab/model is gated: accept its licence at "
            "https://huggingface.co/ab/model, then log in with: hf auth login"
        )
        hub.gated.clear()
        (repository / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        (repository / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
        out, said = opened(hub, tmp_path / "cache")
        assert out.startswith("UserError model: vae has only pickled weights")
        assert (hub.sent, said) == (["model_index.json"], "")
        (repository / "model_index.json").unlink()
        assert "is no diffusers pipeline" in opened(hub, tmp_path / "other")[0]
        hub.models.clear()
        assert "the hub has no such model, or it is private" in opened(hub, tmp_path / "cache")[0]


@pytest.mark.slow
def test_a_config_that_is_wrong_is_refused_before_the_weights(repository, tmp_path):
    (repository / "vae" / "config.json").write_text("{")
    (repository / "model_index.json").write_text(
        (repository / "model_index.json").read_text().replace('"_class_name"', '"_other"')
    )
    with fake_hub({"ab/model": repository}) as hub:
        assert "expected a pipeline class" in opened(hub, tmp_path / "cache")[0]
        assert not [name for name in hub.sent if name.endswith(".safetensors")]


@pytest.mark.slow
def test_without_a_network(repository, tmp_path):
    cache = tmp_path / "cache"
    with fake_hub({"ab/model": repository}) as hub:
        offline = {"HF_HUB_OFFLINE": "1"}
        out, _ = opened(hub, cache, **offline)
        assert "can't be reached (HF_HUB_OFFLINE is set); the hub's cache (" in out
        assert "has nothing of it" in out
        opened(hub, cache, weights=False)
        out, _ = opened(hub, cache, **offline)
        assert "has no weights of " in out
        assert "transformer" in out
        out, said = opened(hub, cache, weights=False, **offline)
        assert "('transformer', None, False)" in out
        assert said.startswith("ab/model: the hub can't be reached (HF_HUB_OFFLINE is set); uses")
        opened(hub, cache)
        hub.down = True
        out, said = opened(hub, cache)
        assert "('transformer', None, True)" in out
        assert "503 Service Unavailable" in said
    out, said = opened(hub, cache)  # nobody listens there any more
    assert "('transformer', None, True)" in out
    assert "can't be reached (" in said


@pytest.mark.slow
def test_a_download_that_breaks_off_continues(repository, tmp_path):
    with fake_hub({"ab/model": repository}) as hub:
        hub.broken.add("vae/diffusion_pytorch_model.safetensors")
        out, _ = opened(hub, tmp_path / "cache")
        assert out.startswith(("RunFailed ab/model: the download broke off", "UserError model:"))
        hub.broken.clear()
        hub.down = False
        hub.sent.clear()
        out, _ = opened(hub, tmp_path / "cache")
        assert "('vae', None, True)" in out
        assert "transformer/config.json" not in hub.sent


@pytest.mark.slow
def test_the_plan_of_a_model_on_the_hub_names_no_format(repository, tmp_path):
    code = "import sys; from obsdiff.cli.main import main; sys.exit(main(['inspect', 'ab/model']))"
    with fake_hub({"ab/model": repository}) as hub:
        done = hub.run(code, tmp_path / "cache")
        assert not [name for name in hub.sent if not name.endswith(".json")]
    assert done.returncode == 0, done.stderr
    assert " parameters\n" in done.stdout
    assert "None" not in done.stdout
