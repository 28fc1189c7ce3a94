"""Values in prompts: equal ones have equal hashes, others do not, and records describe them."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline
from PIL import Image

import obsdiff
from obsdiff import PruningConfig
from obsdiff.errors import UserError
from obsdiff.pipelines.prompt_records import described, described_prompts, prompts_hash
from obsdiff.pipelines.record import read_record

from ..conftest import sd, sd3
from ..support.lanes import first_quick

SMALL = {"num_inference_steps": 2, "height": 16, "width": 16, "num_prompts": 1}


def picture(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (16, 16), colour)


def painted(red: int) -> Image.Image:
    """The same numbers under another palette."""
    found = Image.new("P", (4, 4))
    found.putpalette([red, 0, 0] * 2)
    return found


def array(value: float, last: float = 0.0) -> np.ndarray:
    """So large that the text of numpy omits `value` and shows `last`."""
    found = np.zeros((40, 40, 3), np.float32)
    found[20, 20], found[-1, -1, -1] = value, last
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: "a cat", lambda: "a dog"),
        (lambda: 1, lambda: True),
        (lambda: picture(), lambda: picture("blue")),
        (lambda: picture(), lambda: picture().convert("L")),
        (lambda: picture().convert("P"), lambda: picture("blue").convert("P")),
        (lambda: painted(0), lambda: painted(255)),
        (lambda: np.longdouble(1.5), lambda: np.longdouble(2.5)),
        (
            lambda: np.longdouble([[1, 2]]),
            lambda: np.longdouble([[1, 2]]) + np.longdouble(2) ** -60,
        ),
        (lambda: np.clongdouble(1 + 2j), lambda: np.clongdouble(1 - 2j)),
        (lambda: torch.tensor([1 + 2j]).conj(), lambda: torch.tensor([1 + 2j])),
        (lambda: array(0), lambda: array(1)),
        (lambda: array(0), lambda: array(0).astype(np.float64)),
        (lambda: array(0), lambda: array(0).reshape(40, 120)),
        (
            lambda: torch.zeros(2000),
            lambda: torch.cat([torch.zeros(1000), torch.ones(1), torch.zeros(999)]),
        ),
        (lambda: torch.zeros(4), lambda: torch.zeros(4).half()),
        (lambda: [picture(), array(0)], lambda: [picture(), array(1)]),
        (lambda: {"x": [torch.zeros(3)]}, lambda: {"x": [torch.ones(3)]}),
        (lambda: torch.ones(3, requires_grad=True), lambda: torch.zeros(3)),
    ],
)
def test_equal_arguments_have_equal_hashes_and_others_do_not(one, other):
    hashes = [prompts_hash([{"value": make()}], [0]) for make in (one, one, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert json.loads(json.dumps(described(one()))) == described(one())


def test_seeds_names_and_order_count():
    prompts = [{"prompt": "a"}, {"prompt": "b"}]
    hashes = {
        prompts_hash(p, s)
        for p, s in (
            (prompts, [0, 1]),
            (prompts, [1, 0]),
            (prompts[::-1], [0, 1]),
            ([{"negative_prompt": "a"}, prompts[1]], [0, 1]),
            (["a", "b"], [0, 1]),
        )
    }
    assert len(hashes) == 5


def test_text_is_recorded_as_it_is():
    assert described_prompts(
        [
            "a cat",
            {
                "prompt": "a dog",
                "strength": 0.5,
                "steps": np.int64(3),
                "nothing": None,
                "size": (1, 2),
            },
        ]
    ) == [
        "a cat",
        {"prompt": "a dog", "strength": 0.5, "steps": 3, "nothing": None, "size": [1, 2]},
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "image is of type object"),
        (torch.eye(3).to_sparse(), "image is of type Tensor"),
        (torch.empty(2, device="meta"), "image is of type Tensor"),
        ([1, {"x": {1, 2}}], r"image\[1\]\.x is of type set"),
    ],
)
def test_values_without_a_hash_are_refused_before_anything_is_drawn(value, words):
    pipe = StableDiffusion3Img2ImgPipeline(**sd3().components)
    with pytest.raises(UserError, match=words):
        obsdiff.prune_(pipe, [{"prompt": "red", "image": value}], PruningConfig(**SMALL))


def encoded() -> dict[str, torch.Tensor]:
    """Not under no_grad: with a gradient, as a user may have them."""
    text, _, pooled, _ = sd3().encode_prompt("red", "red", "red", do_classifier_free_guidance=False)
    return {"prompt_embeds": text, "pooled_prompt_embeds": pooled}


@pytest.mark.parametrize("kind", first_quick(["picture", "array", "tensors"]))
@pytest.mark.slow
def test_a_run_on_such_prompts_is_saved_and_resumed(kind, tmp_path):
    """The record describes them; the journal accepts equal ones and refuses others."""

    def run(change: float = 0.0):
        pipe = sd3() if kind == "tensors" else StableDiffusion3Img2ImgPipeline(**sd3().components)
        prompt = {
            "picture": lambda: {
                "prompt": "red",
                "strength": 1.0,
                "image": picture("blue" if change else "red"),
            },
            "array": lambda: {"prompt": "red", "strength": 1.0, "image": array(change)[None]},
            "tensors": lambda: {name: value + change for name, value in encoded().items()},
        }[kind]()
        settings = SMALL | {"guidance_scale": 1.0}
        if kind != "tensors":
            settings = {
                name: settings[name]
                for name in ("num_inference_steps", "num_prompts", "guidance_scale")
            }
        return pipe, obsdiff.prune_(
            pipe, [prompt], PruningConfig(**settings), journal=tmp_path / "journal"
        )

    pipe, report = run()
    folder = obsdiff.save_pruned(pipe, tmp_path / "out", report)
    assert any("sha256" in str(value) for value in read_record(folder)["prompts"][0].values())
    again, _ = run()
    assert all(
        torch.equal(a, b)
        for a, b in zip(pipe.transformer.parameters(), again.transformer.parameters(), strict=True)
    )
    with pytest.raises(UserError, match="another prompts"):
        run(1.0)


@pytest.mark.slow
def test_a_dense_pass_serves_equal_tensors_and_no_others():
    config = PruningConfig(**SMALL | {"guidance_scale": 1.0})
    pipe, prompt = sd3(), encoded()
    with obsdiff.dense_pass(pipe, [prompt], [config]) as dense:
        obsdiff.prune_(
            sd3(), [{name: value.clone() for name, value in prompt.items()}], config, dense=dense
        )
        with pytest.raises(UserError, match="other prompts"):
            obsdiff.prune_(
                sd3(), [{name: value + 1 for name, value in prompt.items()}], config, dense=dense
            )


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("a cat", "expected a list of strings, or of dicts with pipeline arguments; found str"),
        ({"prompt": "a cat"}, "found dict"),
        (7, "found int"),
        ([1], "found 1"),
    ],
)
def test_other_values_than_a_list_of_prompts_are_refused(prompts, words):
    with pytest.raises(UserError, match=words):
        obsdiff.prune_(sd3(), prompts, PruningConfig(**SMALL))


def test_other_values_than_a_pipeline_or_a_config_are_refused():
    with pytest.raises(UserError, match="pipe: expected a diffusers pipeline, found NoneType"):
        obsdiff.prune_(None, ["a cat"])
    with pytest.raises(UserError, match="config: expected a PruningConfig, found dict"):
        obsdiff.prune_(sd3(), ["a cat"], {"sparsity": 0.5})


def test_an_argument_without_a_name_in_the_call_is_a_warning():
    with pytest.warns(
        obsdiff.CalibrationWarning,
        match="StableDiffusionPipeline names no argument 'negative_promt'",
    ):
        obsdiff.prune_(
            sd(), [{"prompt": "a cat", "negative_promt": "a dog"}], PruningConfig(**SMALL)
        )
