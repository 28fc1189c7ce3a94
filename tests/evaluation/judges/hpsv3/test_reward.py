"""Scores of a tiny HPSv3 against a computation of their own, from the published facts."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from obsdiff.evaluation.judges.files import Judges
from obsdiff.evaluation.judges.hpsv3 import reward
from obsdiff.evaluation.judges.hpsv3.reading import Grid
from obsdiff.evaluation.judges.hpsv3.reward import load_hpsv3
from obsdiff.evaluation.judges.scores import model_figures

from ....conftest import PROMPTS
from .tiny import INSTRUCTION, QUESTION

try:
    from transformers import Qwen2VLImageProcessorPil as PilProcessor
except ImportError:  # transformers before it had two of them
    from transformers import Qwen2VLImageProcessor as PilProcessor

SIDE = 448  # of a square picture after resizing
AREA = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
PUBLISHED = (  # some published names
    *("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"),
    *("visual.blocks.0.attn.qkv.bias", "visual.merger.mlp.2.weight", "rm_head.5.bias"),
)


def images(n: int = 3) -> list[Image.Image]:
    """Pictures of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(40, 40), (64, 30), (500, 700)]
    return [
        Image.fromarray(rng.integers(0, 256, (*sizes[i % 3], 3), dtype=np.uint8)) for i in range(n)
    ]


class Facts:
    """The published computation on transformers' own class and processor, one picture at a time."""

    def __init__(self, folder):
        self.weights = load_file(folder / "HPSv3.safetensors")
        self.tokens = AutoTokenizer.from_pretrained(folder)
        self.tokens.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
        config = Qwen2VLConfig.from_pretrained(folder)
        config.text_config.vocab_size = len(self.tokens)
        renamed = {
            name.replace("visual.", "model.visual.")
            if name.startswith("visual.")
            else name.replace("model.", "model.language_model."): value
            for name, value in self.weights.items()
            if not name.startswith("rm_head.")
        }
        self.whole = Qwen2VLForConditionalGeneration(config).float().eval()
        self.whole.load_state_dict(renamed)
        self.processor = PilProcessor(size=AREA)

    @torch.no_grad()
    def outputs(self, image: Image.Image, prompt: str) -> torch.Tensor:
        """Mean and spread."""
        seen = self.processor(images=[image], return_tensors="pt")
        count = int(seen.image_grid_thw.prod()) // 4
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>"
            + INSTRUCTION.format(text_prompt=prompt)
            + f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = self.tokens(text, return_tensors="pt").input_ids
        inner = self.whole.model
        embedded = self.whole.get_input_embeddings()(ids)
        picture = inner.visual(seen.pixel_values, grid_thw=seen.image_grid_thw)
        picture = getattr(picture, "pooler_output", picture)  # a tensor in transformers 5.0
        embedded[ids == self.whole.config.image_token_id] = picture
        hidden = inner.language_model(inputs_embeds=embedded).last_hidden_state
        x = hidden[ids == self.tokens.convert_tokens_to_ids("<|Reward|>")]
        for number in (0, 3, 5):
            x = x @ self.weights[f"rm_head.{number}.weight"].T
            x = x + self.weights[f"rm_head.{number}.bias"]
            x = x if number == 5 else x.relu()
        return x[0]


def test_the_score_is_the_mean_of_the_published_computation(hpsv3):
    facts, judge = Facts(hpsv3), load_hpsv3(hpsv3)
    assert set(PUBLISHED) < facts.weights.keys()
    wanted = [facts.outputs(*pair) for pair in zip(images(), PROMPTS, strict=False)]
    found = judge.scores(images(), PROMPTS[:3])
    assert found == pytest.approx([float(each[0]) for each in wanted], abs=1e-5)
    assert np.ptp(found) > 1e-3
    assert all(abs(each[0] - each[1]) > 1e-3 for each in wanted)  # not the spread


def test_it_reads_the_picture_and_the_prompt(hpsv3):
    judge, pictures = load_hpsv3(hpsv3), images()
    scores = judge.scores(pictures[:2], PROMPTS[:2])
    swapped = judge.scores(pictures[:2], PROMPTS[1::-1])
    assert (abs(scores - swapped) > 1e-4).all()
    assert abs(scores[0] - judge.scores(pictures[2:], PROMPTS[:1])[0]) > 1e-4


def test_a_batch_scores_as_each_picture_alone(hpsv3):
    judge = load_hpsv3(hpsv3)
    prompts = ["a moon", "an old house with two cats and a bird", "fish", "snow", "red"]
    alone = [
        judge.scores([image], [prompt])[0] for image, prompt in zip(images(5), prompts, strict=True)
    ]
    assert judge.scores(images(5), prompts) == pytest.approx(alone, abs=1e-5)


def test_names_of_later_transformers_are_read_and_formats_converted(hpsv3, copy):
    wanted = load_hpsv3(hpsv3).scores(images(), PROMPTS[:3])
    tensors = load_file(copy / "HPSv3.safetensors")
    nested = {
        name.replace("model.", "model.language_model.", 1)
        if name.startswith("model.")
        else f"model.{name}"
        if name.startswith("visual.")
        else name: value
        for name, value in tensors.items()
        if name != "lm_head.weight"
    }
    save_file(nested, copy / "HPSv3.safetensors")
    assert load_hpsv3(copy).scores(images(), PROMPTS[:3]) == pytest.approx(wanted, abs=1e-6)
    halved = {
        name: value if name.startswith("rm_head.") else value.bfloat16()
        for name, value in tensors.items()
    }
    save_file(halved, copy / "HPSv3.safetensors")
    judge = load_hpsv3(copy)
    assert judge.body.dtype == torch.float32  # on a CPU
    assert judge.scores(images(), PROMPTS[:3]) == pytest.approx(wanted, abs=0.05)


def test_the_stored_format_is_computed_where_a_gpu_would(hpsv3, monkeypatch):
    wanted = load_hpsv3(hpsv3).scores(images(), PROMPTS[:3])
    monkeypatch.setattr(reward, "loaded_format", lambda device, stored: torch.bfloat16)
    judge = load_hpsv3(hpsv3)
    assert judge.body.dtype == torch.bfloat16
    assert judge.head[0].weight.dtype == torch.float32
    assert judge.scores(images(), PROMPTS[:3]) == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("size", [(448, 448), (64, 64), (1024, 1024), (1344, 768), (30, 900)])
def test_pictures_are_read_as_transformers_reads_them(size):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    patches, grid = Grid(14, 2, 2).patches(image)
    wanted = PilProcessor(size=AREA)(images=[image], return_tensors="pt")
    assert [list(grid)] == wanted.image_grid_thw.tolist()
    assert torch.allclose(patches, wanted.pixel_values, atol=1e-5)


def test_a_tokenizer_of_another_size_or_a_token_in_a_prompt_is_the_reason(hpsv3, copy):
    drawn = {"dense": images()}

    def why(folder, prompts):
        found = model_figures(drawn, "dense", prompts, Judges(hpsv3=folder))["dense"]["hpsv3"]
        assert found["value"] is None
        return found["why_not"]

    assert "in a prompt, found 'a <|Reward|>'" in why(hpsv3, ["a <|Reward|>", "b", "c"])
    tokens = AutoTokenizer.from_pretrained(copy)
    tokens.add_tokens(["<|more|>"], special_tokens=True)
    tokens.save_pretrained(copy)
    assert "expected a tokenizer of 264 tokens, <|Reward|> included" in why(copy, PROMPTS[:3])
