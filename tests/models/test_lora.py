"""LoRAs for the dense shapes: cut before or after they are fused, the weights are the same."""

import pytest
import torch
from safetensors.torch import save_file

from obsdiff import UserError
from obsdiff.models.cuts import cuts_of
from obsdiff.models.layout import layout_of
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.lora import cut_lora

from ..conftest import flux, sd, sd3
from ..support.cut_heads import cut_
from ..support.lanes import first_quick
from ..support.loras import diffusers_names, kohya_names, peft_lora, processor_names

KINDS = ("heads", "neurons", "channels")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def denoiser_of(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


def start_of(pipe) -> str:
    return "unet." if hasattr(pipe, "unet") else "transformer."


def fused(pipe, lora, **settings):
    """The weights after the LoRA was loaded, fused and unloaded."""
    pipe.load_lora_weights(lora, **settings)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return denoiser_of(pipe)


def target(make) -> str:
    return "conv" if make is sd else "linear"


def require_exact(make, lora_of):
    """Fused and then cut, and cut and then fused, must have the same weights."""
    pruned, dense = make(), make()
    lora = lora_of(dense)
    cut_(denoiser_of(pruned), *KINDS, target=target(make))
    found = fused(pruned, dict(lora)).state_dict()
    untouched = denoiser_of(make())
    cut_(untouched, *KINDS, target=target(make))
    expected = fused(dense, dict(lora))
    cut_(expected, *KINDS, target=target(make))
    wanted = expected.state_dict()
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.allclose(found[name], weight, rtol=1e-5, atol=1e-6), name
    changed = {n for n, w in untouched.state_dict().items() if not torch.equal(w, wanted[n])}
    pruned_layers = {f"{name}.weight" for name in cuts_of(untouched)}
    assert changed & pruned_layers


@pytest.mark.parametrize("make", first_quick([flux, sd3, sd]))
def test_cut_and_fused_is_fused_and_cut(make):
    pytest.importorskip("peft")
    require_exact(make, lambda pipe: peft_lora(denoiser_of(pipe), start_of(pipe)))


@pytest.mark.parametrize(
    "names", [diffusers_names, processor_names, lambda lora: kohya_names(lora, "unet.", 1.0)]
)
@pytest.mark.slow
def test_names_and_alphas_of_other_trainers(names):
    pytest.importorskip("peft")
    require_exact(sd, lambda pipe: names(peft_lora(pipe.unet, "unet.", *ATTENTION)))


def test_the_fused_layers_of_kohya_for_flux():
    """diffusers splits one matrix of q, k and v and scales by alpha before the cut."""
    pytest.importorskip("peft")
    lora = {
        "lora_unet_double_blocks_1_img_attn_qkv.lora_down.weight": torch.randn(2, 32),
        "lora_unet_double_blocks_1_img_attn_qkv.lora_up.weight": torch.randn(96, 2),
        "lora_unet_double_blocks_1_img_attn_qkv.alpha": torch.tensor(1.0),
        "lora_unet_double_blocks_1_img_mlp_2.lora_down.weight": torch.randn(2, 128),
        "lora_unet_double_blocks_1_img_mlp_2.lora_up.weight": torch.randn(32, 2),
    }
    require_exact(flux, lambda pipe: lora)


def test_a_lora_with_biases_and_magnitudes_of_outputs():
    model = sd3().transformer
    lora = peft_lora(model, "", "blocks.1.attn.to_q")
    layer = "transformer_blocks.1.attn.to_q"
    lora[f"{layer}.lora_B.bias"] = torch.arange(32.0)
    lora[f"{layer}.lora_magnitude_vector"] = torch.arange(32.0)[None]
    cut_(model, "heads")
    cut = cut_lora(model, lora)
    assert torch.equal(cut[f"{layer}.lora_B.bias"], torch.arange(8.0, 32.0))
    assert torch.equal(cut[f"{layer}.lora_magnitude_vector"], torch.arange(8.0, 32.0)[None])
    assert torch.equal(cut[f"{layer}.lora_B.weight"], lora[f"{layer}.lora_B.weight"][8:])
    assert torch.equal(cut[f"{layer}.lora_A.weight"], lora[f"{layer}.lora_A.weight"])


@pytest.mark.parametrize("make", first_quick([flux, sd3, sd]))
def test_the_cuts_are_those_of_the_shrunk_layers(make):
    model, dense = denoiser_of(make()), denoiser_of(make())
    cut_(model, *KINDS, target=target(make))
    now, before = (layer_shapes(each, target(make)) for each in (model, dense))
    cuts = cuts_of(model)
    assert {name: cut.left for name, cut in cuts.items() if cut.left != cut.shape} == {
        name: shape for name, shape in now.items() if shape != before[name]
    }
    for name, cut in cuts.items():
        weight, whole = (each.get_submodule(name).weight.flatten(1) for each in (model, dense))
        assert torch.equal(weight, whole[cut.rows][:, cut.columns])


LAYER = "transformer_blocks.1.attn.to_out.0"
A, B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({A: torch.zeros(2, 31)}, "the dense one (32, 32); found a LoRA for (32, 31)"),
        ({B: torch.zeros(64, 2)}, "found a LoRA for (64, 32), made for another model"),
        ({A: torch.zeros(3, 32)}, "expected lora_A (rank, inputs) and lora_B (outputs, rank)"),
        ({A: torch.zeros(32)}, "found (32,) and (32, 2)"),
        ({B: torch.tensor(1.0)}, "found (2, 32) and ()"),
        ({f"{LAYER}.lokr_w1": torch.zeros(2, 2)}, "lokr_w1', which can't be cut"),
        ({f"{LAYER}.diff": torch.zeros(2, 2)}, "diff', which can't be cut"),
        ({f"{LAYER}.lora_magnitude_vector": torch.zeros(32)}, "has fewer inputs"),
        ({f"{LAYER}.lora_B.bias": torch.zeros(31)}, "has 31 numbers, expected 32"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_cut_is_one_line(changes, words):
    model = sd3().transformer
    lora = peft_lora(model, "", "blocks.1.attn.to_out.0") | changes
    cut_(model, "heads")
    with pytest.raises(UserError) as error:
        cut_lora(model, lora)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_older_folder_does_not_state_what_was_kept():
    model = sd3().transformer
    lora = peft_lora(model, "", "blocks.1.attn.to_out.0")
    cut_(model, "heads")
    older = type(model).from_config(dict(model.config) | {"pruned_layout": layout_of(model)})
    with pytest.raises(UserError, match="does not state which rows and columns"):
        cut_lora(older, lora)
    fitting = peft_lora(older, "", "blocks.1.attn.to_out.0")
    assert all(torch.equal(cut_lora(older, fitting)[name], fitting[name]) for name in fitting)


def test_every_way_to_load_a_lora_cuts_it(tmp_path):
    pytest.importorskip("peft")
    pipe, dense = sd3(), sd3()
    cut_(pipe.transformer, "heads", "neurons")
    lora = peft_lora(dense.transformer, "transformer.", "to_q", "ff.net.2")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in lora.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    for call in (
        lambda: pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors"),
        lambda: pipe.load_lora_weights(lora, low_cpu_mem_usage=True),
        lambda: pipe.transformer.load_lora_adapter(str(tmp_path / "lora.safetensors")),
        lambda: pipe.transformer.load_lora_adapter(
            pretrained_model_name_or_path_or_dict=bare, prefix=None
        ),
    ):
        call()
        layer = pipe.transformer.transformer_blocks[1].attn.to_q
        (up,) = layer.lora_B.values()
        assert torch.equal(up.weight, bare["transformer_blocks.1.attn.to_q.lora_B.weight"][8:])
        pipe.unload_lora_weights()
    pipe.load_lora_weights(lora, adapter_name="mine")
    doubled = {name: 2 * tensor for name, tensor in lora.items()}
    pipe.load_lora_weights(doubled, adapter_name="mine", hotswap=True)
    up = pipe.transformer.transformer_blocks[1].attn.to_q.lora_B["mine"].weight
    assert torch.equal(up, 2 * bare["transformer_blocks.1.attn.to_q.lora_B.weight"][8:])
