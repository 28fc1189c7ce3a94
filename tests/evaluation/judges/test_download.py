"""--download: metric models from a small hub on loopback, by the real client."""

import hashlib
import shutil
from pathlib import Path

import pytest

from obsdiff.errors import UserError
from obsdiff.evaluation.judges.download import BERT, USUAL, how_to, reward_files
from obsdiff.evaluation.judges.files import Judges, find_judges, published_judges
from obsdiff.pipelines.hub_files import model_files
from tests.support.fake_hub import COMMIT, FakeHub, fake_hub

FIND = """
from pathlib import Path
from obsdiff.errors import RunFailed, UserError
from obsdiff.evaluation.judges import download
from obsdiff.evaluation.judges.files import find_judges
download.PUBLISHED = {published!r}
try:
    judges = find_judges({given!r}, Path("dense"), {download})
    print(judges.record())
except (UserError, RunFailed) as error:
    print(type(error).__name__, error)
"""
LOCAL = "https://unused/alexnet-owt-00000000.pth"  # of a file that is in torch's cache


def found(hub: FakeHub, cache: Path, given: dict, download: bool = True, lpips: str = LOCAL):
    """Find judges in a process; return what it printed, and what it said."""
    place = cache / "torch" / "hub" / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    (place / LOCAL.rsplit("/", 1)[1]).touch()
    code = FIND.format(given=given, download=download, published={"lpips": lpips})
    done = hub.run(code, cache, TORCH_HOME=str(cache / "torch"))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


@pytest.fixture
def clip_repository(clip, tmp_path):
    """A CLIP as hubs have it: with pickles, other formats, code and a card beside it."""
    folder = Path(shutil.copytree(clip, tmp_path / "clip"))
    for name in ("pytorch_model.bin", "flax_model.msgpack", "README.md", "modeling.py", "a.jpg"):
        (folder / name).write_bytes(b"x")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    shutil.copy(folder / "model.safetensors", folder / "model.fp16.safetensors")
    return folder


@pytest.mark.slow
def test_the_files_that_are_read_are_fetched_once(clip_repository, tmp_path):
    given, cache = {"clip": "ab/clip"}, tmp_path / "cache"
    with fake_hub({"ab/clip": clip_repository}) as hub:
        out, said = found(hub, cache, given, download=False)
        assert "found neither for 'ab/clip'; pass --download, or fetch it with: hf" in out
        assert hub.sent == []

        out, said = found(hub, cache, given)
        assert out == str({"clip": f"ab/clip@{COMMIT}"})
        assert "ab/clip: downloads" in said
        assert sorted(hub.sent) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ]

        hub.sent.clear()
        assert found(hub, cache, given)[0] == out
        assert found(hub, cache, given, download=False)[0] == out  # the cache knows its commit
        assert hub.sent == []

        hub.down = True
        again, said = found(hub, cache, given)
        assert again == out
        assert "uses the hub's cache" in said
        out, _ = found(hub, cache, {"clip": "ab/other"})
        assert out.startswith("UserError clip: 'ab/other' is no folder here, the hub can't be")


@pytest.mark.slow
def test_a_broken_download_is_continued(clip_repository, tmp_path):
    with fake_hub({"ab/clip": clip_repository}) as hub:
        hub.broken.add("model.safetensors")
        out, _ = found(hub, tmp_path / "cache", {"pickscore": "ab/clip"})
        assert out.startswith("RunFailed ab/clip: the download broke off")
        assert out.endswith("; the same command continues it")
        hub.broken.clear()
        hub.down = False
        out, _ = found(hub, tmp_path / "cache", {"pickscore": "ab/clip"})
        assert out == str({"pickscore": f"ab/clip@{COMMIT}"})


@pytest.mark.slow
def test_what_can_not_be_fetched_is_one_line(clip_repository, tmp_path):
    cache = tmp_path / "cache"
    with fake_hub({"ab/clip": clip_repository, "ab/pickled": tmp_path / "pickled"}) as hub:
        (tmp_path / "pickled").mkdir()
        (tmp_path / "pickled" / "config.json").write_text('{"model_type": "clip"}')
        (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
        hub.gated.add("ab/clip")
        for name, hub_id, words in (
            ("clip", "ab/none", "UserError clip: 'ab/none' is no folder here, and the hub has no"),
            ("clip", "ab/clip", "UserError clip: ab/clip is gated: accept its licence at"),
            ("clip", "ab/pickled", "UserError clip: expected safetensors files on the hub, found "),
            ("image_reward", "ab/pickled", "UserError image-reward: expected med_config.json and"),
        ):
            out, _ = found(hub, cache, {name: hub_id})
            assert out.startswith(words)
            assert "\n" not in out
        out, _ = found(hub, cache, {"clip": "ab/none", "lpips": "no/such.pth"})
        assert out.startswith("UserError lpips:")  # what is here is checked first


@pytest.mark.slow
def test_image_reward_is_fetched_with_the_tokenizer_of_bert(reward, tmp_path):
    alone = Path(shutil.copytree(reward, tmp_path / "reward"))
    bert = tmp_path / "bert"
    bert.mkdir()
    shutil.move(alone / "vocab.txt", bert / "vocab.txt")
    (bert / "config.json").write_text("{}")
    (bert / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=rf"found no tokenizer; fetch it with: hf download {BERT}"):
        find_judges({"image_reward": str(alone)}, tmp_path)
    with fake_hub({"ab/reward": alone, BERT: bert}) as hub:
        out, _ = found(hub, tmp_path / "cache", {"image_reward": "ab/reward"})
        assert out == str({"image_reward": f"ab/reward@{COMMIT}"})
        assert sorted(set(hub.sent)) == ["ImageReward.pt", "med_config.json", "vocab.txt"]
        load = (
            "from pathlib import Path\n"
            "from obsdiff.evaluation.judges.image_reward import load_image_reward as load\n"
            f"print(load(Path({str(alone)!r})).tokenizer.vocab_size)"
        )
        done = hub.run(load, tmp_path / "cache", HF_HUB_OFFLINE="1")
        assert int(done.stdout) == len((bert / "vocab.txt").read_text().split()), done.stderr


@pytest.mark.slow
def test_published_weights_come_with_their_hash_into_the_cache_of_torch(alexnet, tmp_path):
    digest = hashlib.sha256(alexnet.read_bytes()).hexdigest()
    place = tmp_path / "cache" / "torch" / "hub" / "checkpoints"
    (tmp_path / "files").mkdir()
    for name in (f"alexnet-{digest[:8]}.pth", "alexnet-12345678.pth"):
        shutil.copy(alexnet, tmp_path / "files" / name)
    with fake_hub({"ab/files": tmp_path / "files"}) as hub:
        right = f"{hub.url}/ab/files/resolve/main/alexnet-{digest[:8]}.pth"
        out, said = found(hub, tmp_path / "cache", {}, lpips=right)
        assert out == "{}"
        assert f"alexnet-{digest[:8]}.pth: downloads" in said
        assert (place / f"alexnet-{digest[:8]}.pth").read_bytes() == alexnet.read_bytes()
        found(hub, tmp_path / "cache", {}, lpips=right)
        assert hub.sent == [f"alexnet-{digest[:8]}.pth"]  # once

        wrong = f"{hub.url}/ab/files/resolve/main/alexnet-12345678.pth"
        out, _ = found(hub, tmp_path / "cache", {}, lpips=wrong)
        assert out.startswith(
            "RunFailed alexnet-12345678.pth: the download broke off: invalid hash"
        )
        assert not (place / "alexnet-12345678.pth").exists()
        hub.down = True
        out, _ = found(hub, tmp_path / "cache", {}, lpips=wrong)
        assert out.startswith(f"UserError lpips: {wrong} can't be reached (HTTP Error 503")


def test_which_published_networks_are_needed(tmp_path):
    assert published_judges(Judges()) == ["lpips"]  # without real pictures no FID
    assert published_judges(Judges(real=tmp_path)) == ["lpips", "features"]
    assert published_judges(Judges(real=tmp_path, features=tmp_path, lpips=tmp_path)) == []


def test_names_choose_the_files():
    shards = {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    names = shards | {"config.json", "model.safetensors.index.json", "vocab.txt", "code.py"}
    assert model_files(names, "clip") == [
        "config.json",
        "vocab.txt",
        "model.safetensors.index.json",
        *sorted(shards),
    ]
    with pytest.raises(UserError, match="clip is not whole on the hub: expected 2 shards, found 1"):
        model_files(names - {"model-00002-of-00002.safetensors"}, "clip")
    with pytest.raises(UserError, match=r"no config\.json"):
        model_files({"model.safetensors"}, "clip")
    both = {"ImageReward.pt", "ImageReward.safetensors", "med_config.json"}
    assert reward_files(both) == ["med_config.json", "ImageReward.safetensors"]


@pytest.mark.parametrize("name", USUAL)
def test_what_is_not_run_says_what_would_make_it_run(name):
    assert how_to(name) == f"--{name.replace('_', '-')} {USUAL[name]} --download"


def test_python_may_pass_hub_ids_and_paths(clip, tmp_path):
    assert find_judges({"clip": clip, "features": Path("inception")}, tmp_path) == Judges(clip=clip)
    with pytest.raises(UserError, match="pass --download"):
        find_judges({"clip": Path("no-such/model")}, tmp_path)
