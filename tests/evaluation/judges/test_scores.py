"""Judges on tiny models of their own classes, and the reasons of those that have no model."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.image.lpips as reference_lpips
import torchmetrics.image.fid as reference_fid
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchmetrics.functional.multimodal import clip_score
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from transformers import (
    BertTokenizer,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from obsdiff.errors import UserError
from obsdiff.evaluation.judges.clip import Clip, as_tensor, preprocessing
from obsdiff.evaluation.judges.features import features_of, open_extractor
from obsdiff.evaluation.judges.files import Judges, find_judges
from obsdiff.evaluation.judges.image_reward import NAMES, load_image_reward
from obsdiff.evaluation.judges.inception import load_inception
from obsdiff.evaluation.judges.lpips import AlexNet, load_alexnet, lpips, lpips_heads
from obsdiff.evaluation.judges.scores import model_figures
from obsdiff.evaluation.judges.weights import MetricUnavailable, fill_, read_weights
from obsdiff.pipelines.builtin import builtin_path

from ...conftest import PROMPTS
from .conftest import SIDE, VISION
from .hpsv3.tiny import make_hpsv3

EMOJI_CLIP = builtin_path("emoji-clip")
BENCHMARKS = {"geneval", "dpg"}  # have prompts of their own


def images(n: int = 4, side: int = SIDE, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)
    ]


class Reads:
    """torchmetrics' processor for a Clip: our tokenizer, our preprocessing of pictures."""

    def __init__(self, judge: Clip):
        self.judge = judge

    def __call__(self, text=None, images=None, **kwargs):
        if text is not None:
            return self.judge.tokenizer(text, padding=True, return_tensors="pt")
        return {
            "pixel_values": self.judge.preprocess(
                [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
            )
        }


class Embeds(nn.Module):
    """torchmetrics' model for a Clip: returns tensors, where transformers 5 returns objects."""

    def __init__(self, model: CLIPModel):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.visual_projection(
            self.model.vision_model(pixel_values=pixels).pooler_output
        )

    def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model.text_projection(
            self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        )


@pytest.mark.parametrize("folder", ["tiny", "emoji-clip"])
def test_clip_score_is_torchmetrics(clip, folder):
    judge = Clip(clip if folder == "tiny" else EMOJI_CLIP)
    drawn = images(4, side=judge.model.config.vision_config.image_size)
    with torch.no_grad():
        theirs = clip_score(
            [as_tensor(i) for i in drawn], PROMPTS[:4], lambda: (Embeds(judge.model), Reads(judge))
        ).item()
    assert max(judge.clip_scores(drawn, PROMPTS[:4]).mean(), 0) == pytest.approx(theirs, abs=1e-3)


def test_emoji_clip_prefers_the_matching_caption():
    judge = Clip(EMOJI_CLIP)
    red = Image.new("RGB", (64, 64), "white")
    red.paste((220, 40, 50), (8, 8, 56, 56))
    scores = judge.clip_scores([red, red], ["red square, noto style", "green salad, noto style"])
    assert scores[0] > scores[1] + 5


def test_pickscore_is_the_scaled_cosine(clip):
    judge = Clip(clip)
    scores = judge.pick_scores(images(), PROMPTS[:4])
    with torch.no_grad():
        text = judge.tokenizer(PROMPTS[:4], padding=True, return_tensors="pt")
        out = judge.model(**text, pixel_values=judge.preprocess(images()))
    assert scores == pytest.approx(out.logits_per_image.diag().double().numpy(), rel=1e-4)


def test_a_model_reads_pictures_its_own_way(clip, tmp_path):
    picture = images(1, side=48)
    assert preprocessing(clip)(picture).shape == (1, 3, SIDE, SIDE)
    white = preprocessing(clip)([Image.new("RGB", (SIDE, SIDE), "white")])
    assert white.unique().tolist() == [1.0]
    own = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    own.save_pretrained(tmp_path)
    assert torch.equal(
        preprocessing(tmp_path)(picture), own(images=picture, return_tensors="pt").pixel_values
    )


@pytest.mark.slow
@pytest.mark.parametrize("extractor", ["emoji-clip", "inception"])
def test_fid_and_kid_are_torchmetrics(extractor, inception, tmp_path):
    """From pictures to figures, against torchmetrics with the same network."""
    path, n = (EMOJI_CLIP, 12) if extractor == "emoji-clip" else (inception, 4)
    drawn, real = images(n, seed=1), images(n, seed=2)
    for i, image in enumerate(real):
        image.save(tmp_path / f"{i}.png")
    found = model_figures(
        {"dense": drawn}, "dense", PROMPTS * 2, Judges(features=path, real=tmp_path)
    )["dense"]
    extract = open_extractor(path)

    class Network(nn.Module):
        num_features = features_of(drawn[:1], extract).shape[1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return features_of(
                [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in x], extract
            ).double()

    for key, metric in (
        ("fid", FrechetInceptionDistance(Network())),
        ("kid", KernelInceptionDistance(Network(), subsets=1, subset_size=n)),
    ):
        for pictures, is_real in ((drawn, False), (real, True)):
            metric.update(torch.stack([as_tensor(i) for i in pictures]), real=is_real)
        theirs = metric.compute()
        theirs = theirs[0] if key == "kid" else theirs
        assert found[key]["value"] == pytest.approx(theirs.item(), rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_inception_runs_its_layers_as_torchmetrics_does(inception, monkeypatch):
    """torchmetrics has the order of the layers, the scaling and the resizing.

    torch-fidelity, which has the blocks, may be missing.
    """
    net = load_inception(inception)
    x = torch.stack([as_tensor(i) for i in images(2, side=40)])
    theirs = nn.Module()
    for name, layer in net.named_children():
        theirs.add_module(name, layer)
    theirs.features_list, theirs.use_antialias, theirs.INPUT_IMAGE_SIZE, theirs.AvgPool = (
        ["2048"],
        True,
        299,
        nn.AdaptiveAvgPool2d(1),
    )
    monkeypatch.setattr(reference_fid, "vassert", lambda truth, message: None)
    (expected,) = reference_fid.NoTrainInceptionV3._torch_fidelity_forward(theirs, x)
    assert torch.allclose(net(x), expected, rtol=1e-4, atol=1e-6)
    assert len(net.state_dict()) == 564  # of the 566 published tensors all but the classifier's


def test_lpips_is_torchmetrics(alexnet, monkeypatch):
    net, weights = load_alexnet(alexnet), lpips_heads()
    x, y = (torch.stack([as_tensor(i) for i in images(3, side=64, seed=s)]) for s in (1, 2))

    def bare(name: str, pretrained: bool) -> nn.Sequential:
        return nn.Sequential(*net.features, nn.MaxPool2d(3, 2))

    monkeypatch.setattr(reference_lpips, "_get_tv_model_features", bare)
    theirs = reference_lpips._LPIPS(pretrained=True, net="alex", pnet_rand=True)(
        x.float() / 127.5 - 1, y.float() / 127.5 - 1
    ).flatten()
    assert torch.allclose(lpips(net, weights, x, y), theirs, rtol=1e-4)
    assert lpips(net, weights, x, x).abs().max() == 0


def test_image_reward_runs_on_its_published_names(reward):
    judge = load_image_reward(reward)
    scores = judge.rewards(images(3, side=40), PROMPTS[:3])
    assert np.isfinite(scores).all()
    again = judge.rewards(images(3, side=40)[:1], ["two cats"])
    assert scores[0] != again[0]  # it reads the prompt
    assert len(NAMES) == 9
    assert isinstance(judge.tokenizer, BertTokenizer)


def test_every_metric_is_run(clip, inception, alexnet, reward, tmp_path):
    for i, image in enumerate(images(5, seed=7)):
        image.save(tmp_path / f"{i}.png")
    judges = Judges(
        clip=clip,
        features=clip,
        real=tmp_path,
        lpips=alexnet,
        pickscore=clip,
        image_reward=reward,
        hpsv3=make_hpsv3(tmp_path / "hpsv3"),
    )
    drawn = {"dense": images(4, seed=1), "half": images(4, seed=2)}
    found = model_figures(drawn, "dense", PROMPTS[:4], judges)
    names = {"lpips", "fid", "kid", "clip_score", "pickscore", "image_reward", "hpsv3"}
    assert set(found["half"]) == names | BENCHMARKS
    assert set(found["dense"]) == set(found["half"]) - {"lpips"}
    for figures in found.values():
        for figure in (figures[name] for name in names & set(figures)):
            assert figure["why_not"] is None
            assert figure["low"] <= figure["value"] <= figure["high"]
            assert len(figure["per_prompt"]) == 4


def test_a_missing_model_is_the_reason_of_its_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "real").mkdir()
    images(1)[0].save(tmp_path / "real" / "a.png")
    drawn = {"dense": images(3), "half": images(3, seed=2)}
    found = model_figures(drawn, "dense", PROMPTS[:3], Judges(real=tmp_path / "real"))["half"]
    words = {
        "lpips": "alexnet-owt",
        "fid": "weights-inception-2015",
        "kid": "--features",
        "clip_score": "--clip",
        "pickscore": "--pickscore",
        "image_reward": "--image-reward",
        "hpsv3": "--hpsv3 FOLDER with HPSv3.safetensors of MizzenAI/HPSv3",
        "geneval": "--geneval",
        "dpg": "--dpg",
    }
    for metric, word in words.items():
        assert found[metric]["value"] is None
        assert word in found[metric]["why_not"]
    assert (
        "--real" in model_figures(drawn, "dense", PROMPTS[:3], Judges())["dense"]["kid"]["why_not"]
    )


def test_weights_that_do_not_fit_are_refused_not_made_up(clip, alexnet, tmp_path):
    with pytest.raises(MetricUnavailable, match="tensors missing or of another shape"):
        fill_(AlexNet(), {"features.0.weight": torch.zeros(1)}, alexnet)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in clip.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors.pop("logit_scale")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    found = model_figures(
        {"dense": images(3)}, "dense", PROMPTS[:3], Judges(clip=broken, image_reward=tmp_path)
    )["dense"]
    assert "logit_scale" in found["clip_score"]["why_not"]
    assert "no weights of ImageReward" in found["image_reward"]["why_not"]
    torch.save({"model": print}, tmp_path / "code.pth")  # a function is no weight
    with pytest.raises(MetricUnavailable, match="something else than tensors"):
        read_weights(tmp_path / "code.pth")


def test_saved_features_of_another_extractor_are_refused(clip, tmp_path):
    save_file({"features": torch.randn(9, 5)}, tmp_path / "narrow.safetensors")
    drawn = {"dense": images(3)}
    narrow = model_figures(
        drawn, "dense", PROMPTS[:3], Judges(features=clip, real=tmp_path / "narrow.safetensors")
    )["dense"]["fid"]
    assert "expected 16 numbers a picture, as the extractor computes, found 5" in narrow["why_not"]
    other = model_figures(
        drawn, "dense", PROMPTS[:3], Judges(features=clip, real=EMOJI_CLIP / "real.safetensors")
    )["dense"]["kid"]
    assert "another extractor" in other["why_not"]


def test_a_tower_alone_extracts_features(tmp_path):
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).save_pretrained(tmp_path)
    assert find_judges({"features": str(tmp_path)}, tmp_path).features == tmp_path
    assert features_of(images(), open_extractor(tmp_path)).shape == (4, 16)


def test_emoji_clip_is_the_default_judge_of_a_builtin(clip, tmp_path):
    dense = builtin_path("emoji-sd3")
    judges = find_judges({"clip": None, "features": None, "real": None}, dense)
    assert judges == Judges(
        clip=EMOJI_CLIP, features=EMOJI_CLIP, real=EMOJI_CLIP / "real.safetensors"
    )
    assert judges.record() == {
        "clip": "emoji-clip",
        "features": "emoji-clip",
        "real": "emoji-clip/real.safetensors",
    }
    assert find_judges({"features": "inception"}, dense) == Judges(clip=EMOJI_CLIP)
    assert (
        find_judges({"features": str(clip)}, dense).real is None
    )  # saved features are emoji-clip's
    assert find_judges({}, tmp_path) == Judges()
    assert (EMOJI_CLIP / "real.safetensors").stat().st_size < 1.2e6


def test_the_builtin_is_judged_offline():
    """With the features that emoji-clip contains; noise is far from real emoji."""
    judges = find_judges({}, builtin_path("emoji-sd3"))
    found = model_figures({"dense": images(4, side=64)}, "dense", PROMPTS[:4], judges)["dense"]
    assert found["fid"]["low"] > 100
    assert found["kid"]["value"] > 1
    assert -100 < found["clip_score"]["value"] < 40


def test_wrong_paths_are_one_line(clip, inception, reward, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "notes.txt").touch()
    wrong = {
        "clip": [
            ("no-such-folder", "no-such-folder"),
            ("no-such/model", "hf download no-such/model"),
            (tmp_path / "empty", "config.json"),
            (tmp_path / "bert", "'bert'"),
        ],
        "features": [("incepton", "incepton"), (tmp_path / "notes.txt", "weights")],
        "real": [
            (tmp_path / "empty", "no pictures"),
            (tmp_path / "other.safetensors", "features"),
            (tmp_path / "missing", "missing"),
        ],
        "lpips": [(tmp_path / "missing.pth", "missing.pth")],
        "pickscore": [(inception, "inception.safetensors")],
        "image_reward": [(tmp_path / "empty", "ImageReward.safetensors"), (clip, "ImageReward.pt")],
    }
    for name, cases in wrong.items():
        for value, word in cases:
            with pytest.raises(UserError, match=word) as caught:
                find_judges({name: str(value)}, tmp_path)
            assert "\n" not in str(caught.value)
