"""Adapters and quantised weights: refused before pruning, cut to what is left after it."""

import pytest
import torch
from diffusers import (
    ControlNetModel,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from torch import nn

from obsdiff import PruningConfig, UserError, prune_
from obsdiff.models.kept_items import kept_by
from obsdiff.models.layout import layout_of
from obsdiff.models.linear_view import layer_shapes

from ..conftest import PROMPTS, flux, randomise, sd, sd3
from ..support.cut_heads import cut_
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
MAKES = [sd3, sd, flux]


def component(pipe) -> str:
    return "unet" if hasattr(pipe, "unet") else "transformer"


def denoiser_of(pipe):
    return getattr(pipe, component(pipe))


def pruned(make, **settings):
    """A pipeline without half of its heads and neurons, chosen at random."""
    pipe = make()
    prune_(
        pipe,
        PROMPTS[:1],
        PruningConfig(method="random", pattern="structured", packages=1, **QUICK | settings),
    )
    return pipe


def latents(pipe, **more):
    return pipe(
        PROMPTS[0],
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **QUICK,
        **more,
    ).images


def lora(pipe, *layers: str, prefix: bool = True) -> dict[str, torch.Tensor]:
    """A LoRA of rank 2 for the layers with these endings, in the denoiser's shapes."""
    torch.manual_seed(1)
    start = f"{component(pipe)}." if prefix else ""
    shapes = {
        name: s for name, s in layer_shapes(denoiser_of(pipe)).items() if name.endswith(layers)
    }
    down = {
        f"{start}{name}.lora_A.weight": torch.randn(2, columns)
        for name, (_, columns) in shapes.items()
    }
    return down | {
        f"{start}{name}.lora_B.weight": torch.randn(rows, 2) for name, (rows, _) in shapes.items()
    }


def ip_adapter(unet, width: int = 16) -> dict:
    """An IP-Adapter in the UNet's shapes: 4 image tokens of pictures with 8 features."""
    owners = [
        unet.get_submodule(name.removesuffix(".processor"))
        for name in unet.attn_processors
        if name.endswith("attn2.processor")
    ]
    keys = {
        f"{2 * i + 1}.to_{kind}_ip.weight": torch.randn(a.to_k.out_features, width)
        for i, a in enumerate(owners)
        for kind in "kv"
    }
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    return {
        "ip_adapter": keys,
        "image_proj": {
            "proj.weight": torch.randn(4 * width, 8),
            "proj.bias": torch.zeros(4 * width),
            **norm,
        },
    }


def load_ip_adapter(pipe, weights) -> None:
    pipe.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("make", first_quick([sd3, sd, flux]))
def test_a_lora_for_other_shapes_is_refused_and_leaves_no_trace(make):
    pytest.importorskip("peft")
    pipe = pruned(make)
    before, keys = latents(pipe), set(denoiser_of(pipe).state_dict())
    wrong = lora(make(), "to_q", "to_out.0", "ff.net.2")
    wrong = {name: tensor.repeat(2, 2) for name, tensor in wrong.items()}
    with pytest.raises(UserError, match="made for another model") as error:
        pipe.load_lora_weights(wrong)
    one_line(error)
    assert set(denoiser_of(pipe).state_dict()) == keys
    assert torch.equal(latents(pipe), before)


@pytest.mark.parametrize("make", first_quick(MAKES))
def test_a_lora_for_the_pruned_shapes_works_and_can_be_fused(make):
    pytest.importorskip("peft")
    pipe = pruned(make)
    before = latents(pipe)
    pipe.load_lora_weights(lora(pipe, "to_q", "to_v", "to_out.0"))
    with_lora = latents(pipe)
    assert not torch.allclose(with_lora, before, atol=1e-3)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert torch.allclose(latents(pipe), with_lora, atol=1e-3)


@pytest.mark.slow
def test_a_lora_for_layers_that_were_not_pruned_works():
    pytest.importorskip("peft")
    pipe = pruned(sd3)
    before = latents(pipe)
    pipe.load_lora_weights(lora(sd3(), "norm1.linear", "blocks.0.attn.to_q"))
    assert not torch.allclose(latents(pipe), before, atol=1e-3)


@pytest.mark.parametrize("make", MAKES)
def test_pruning_refuses_layers_with_a_lora_and_accepts_a_fused_one(make):
    pytest.importorskip("peft")
    pipe = make()
    pipe.load_lora_weights(lora(pipe, "to_q"))
    config = PruningConfig(method="magnitude", packages=1, **QUICK)
    for step in (lambda: None, pipe.fuse_lora):
        step()
        with pytest.raises(UserError, match=r"to_q.*unload_lora_weights\(\) first") as error:
            prune_(pipe, PROMPTS[:1], config)
        one_line(error)
    pipe.unload_lora_weights()
    prune_(pipe, PROMPTS[:1], config)


def test_pruning_refuses_a_peft_model_and_a_lora_on_a_text_encoder():
    peft = pytest.importorskip("peft")
    config = PruningConfig(method="magnitude", packages=1, **QUICK)
    pipe = sd3()
    pipe.transformer = peft.get_peft_model(
        pipe.transformer, peft.LoraConfig(r=2, target_modules=["to_q"])
    )
    with pytest.raises(UserError, match="transformer: expected plain layers"):
        prune_(pipe, PROMPTS[:1], config)
    pipe = sd()
    pipe.text_encoder.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(UserError, match="text_encoder: expected plain layers"):
        prune_(pipe, PROMPTS[:1], config)


def kept_heads(unet) -> dict[str, list[int]]:
    return {owner: kept_by(unet.get_submodule(owner))["heads"] for owner in layout_of(unet)}


def masked_heads_(pipe, kept: dict[str, list[int]]) -> None:
    """Set the values of all other heads to zero, the picture tokens' values too."""
    for owner, heads in kept.items():
        attention = pipe.unet.get_submodule(owner)
        ip = list(getattr(attention.processor, "to_v_ip", []))
        for layer in (attention.to_v, *ip):
            rows = layer.weight.data.unflatten(0, (attention.heads, -1))
            rows[[i for i in range(attention.heads) if i not in heads]] = 0


@pytest.mark.slow
def test_an_ip_adapter_for_all_heads_is_cut_to_those_that_are_left():
    weights, pipe, dense = ip_adapter(sd().unet), sd(), sd()
    cut_(pipe.unet, "heads")
    kept = {
        owner: kept_by(pipe.unet.get_submodule(owner))["heads"] for owner in layout_of(pipe.unet)
    }
    for each in (pipe, dense):
        load_ip_adapter(each, weights)
    masked_heads_(dense, kept)
    picture = {"ip_adapter_image_embeds": [torch.randn(2, 1, 8)]}
    assert torch.allclose(latents(pipe, **picture), latents(dense, **picture), atol=1e-5)
    pipe = pruned(sd, target="ffn")
    load_ip_adapter(pipe, weights)
    assert latents(pipe, ip_adapter_image_embeds=[torch.randn(2, 1, 8)]).isfinite().all()


def test_an_ip_adapter_of_sd3_is_cut_to_the_heads_that_are_left(monkeypatch):
    torch.manual_seed(0)
    part, dense, pruned_one = SD3IPAdapterJointAttnProcessor2_0(32, 32, 8, 16), sd3(), sd3()
    weights = {f"{i}.{name}": w for i in range(3) for name, w in part.state_dict().items()}
    cut_(pruned_one.transformer, "heads")
    for pipe in (dense, pruned_one):
        model = pipe.transformer
        monkeypatch.setattr(model, "_convert_ip_adapter_image_proj_to_diffusers", lambda *_: None)
        model._load_ip_adapter_weights({"ip_adapter": weights, "image_proj": {}})
    attention = dense.transformer.transformer_blocks[1].attn
    for layer in (attention.to_v, attention.add_v_proj, attention.processor.to_v_ip):
        layer.weight.data[:8] = 0
        if layer.bias is not None:
            layer.bias.data[:8] = 0
    tokens = {
        "hidden_states": torch.randn(1, 5, 32),
        "encoder_hidden_states": torch.randn(1, 4, 32),
        "ip_hidden_states": torch.randn(1, 3, 32),
        "temb": torch.randn(1, 16),
    }
    cut_one = pruned_one.transformer.transformer_blocks[1].attn
    assert cut_one.heads == 3
    with torch.no_grad():
        for found, expected in zip(cut_one(**tokens), attention(**tokens), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)


def test_flux_refuses_an_ip_adapter_without_all_heads():
    """It adds the picture tokens' output beside to_out, as wide as all heads."""
    with pytest.raises(UserError, match="all its heads"):
        pruned(flux).transformer._load_ip_adapter_weights({"ip_adapter": {}, "image_proj": {}})


def test_an_older_model_that_does_not_state_its_heads_takes_no_ip_adapter():
    unet = sd().unet
    cut_(unet, "heads")
    older = type(unet).from_config(dict(unet.config) | {"pruned_layout": layout_of(unet)})
    with pytest.raises(UserError, match="does not state which"):
        older._load_ip_adapter_weights(ip_adapter(sd().unet))


def test_keys_and_values_of_custom_diffusion_are_cut():
    pipe, dense = sd(), sd()
    owners = [n.removesuffix(".processor") for n in dense.unet.attn_processors if "attn2" in n]
    weights = {
        f"{owner}.processor.to_{kind}_custom_diffusion.weight": torch.randn(
            dense.unet.get_submodule(owner).to_k.weight.shape
        )
        for owner in owners
        for kind in "kv"
    }
    weights |= {n: torch.zeros(0) for n in dense.unet.attn_processors if "attn1" in n}
    cut_(pipe.unet, "heads")
    kept = {
        owner: kept_by(pipe.unet.get_submodule(owner))["heads"] for owner in layout_of(pipe.unet)
    }
    for each in (pipe, dense):
        each.unet.load_attn_procs(dict(weights), _pipeline=each)
    masked_heads_(dense, kept)
    for owner in owners:
        attention = dense.unet.get_submodule(owner)
        rows = attention.processor.to_v_custom_diffusion.weight.data.unflatten(
            0, (attention.heads, -1)
        )
        rows[[i for i in range(attention.heads) if i not in kept[owner]]] = 0
    assert torch.allclose(latents(pipe), latents(dense), atol=1e-5)


def test_queries_of_custom_diffusion_need_all_heads():
    unet = pruned(sd).unet
    owner = next(owner for owner in layout_of(unet) if owner.endswith("attn2"))
    name = f"{owner}.processor.to_q_custom_diffusion.weight"
    with pytest.raises(UserError, match="lacks heads") as error:
        unet.load_attn_procs({name: torch.zeros(4, 4)})
    one_line(error)


def test_pruning_refuses_a_loaded_ip_adapter():
    pipe = sd()
    load_ip_adapter(pipe, ip_adapter(pipe.unet))
    config = PruningConfig(method="magnitude", packages=1, **QUICK)
    with pytest.raises(
        UserError, match=r"IPAdapterAttnProcessor2_0 at .*unload_ip_adapter\(\) first"
    ) as error:
        prune_(pipe, PROMPTS[:1], config)
    one_line(error)
    pipe.unload_ip_adapter()
    prune_(pipe, PROMPTS[:1], config)


def controlnet(unet) -> ControlNetModel:
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))


def test_a_controlnet_of_the_dense_unet_steers_the_pruned_one():
    """It adds to the outputs of blocks, whose widths structured pruning keeps."""
    pipe, torch_seed = pruned(sd), torch.manual_seed(2)
    net = controlnet(sd().unet)
    with torch.no_grad():
        for p in net.controlnet_down_blocks.parameters():
            p.add_(torch.randn(p.shape, generator=torch_seed))
    steered = StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=net, requires_safety_checker=False
    )
    picture = torch.rand(1, 3, 16, 16, generator=torch_seed)
    assert torch.equal(
        latents(steered, image=picture, controlnet_conditioning_scale=0.0), latents(pipe)
    )
    moved = latents(steered, image=picture)
    assert moved.isfinite().all()
    assert not torch.allclose(moved, latents(pipe), atol=1e-3)


def test_a_controlnet_of_the_dense_transformer_steers_the_pruned_one():
    pipe = pruned(sd3)
    net = SD3ControlNetModel.from_transformer(
        sd3().transformer, num_layers=2, num_extra_conditioning_channels=0
    )
    torch.manual_seed(2)
    steered = StableDiffusion3ControlNetPipeline(**pipe.components, controlnet=randomise(net))
    moved = latents(steered, control_image=torch.rand(1, 3, 16, 16))
    assert moved.isfinite().all()
    assert not torch.allclose(moved, latents(pipe), atol=1e-3)


def test_a_controlnet_cannot_be_made_from_a_pruned_denoiser():
    unet = pruned(sd).unet
    with pytest.raises(UserError, match="make the ControlNet from the dense denoiser") as error:
        controlnet(unet)
    one_line(error)
    empty = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False
    )
    assert isinstance(empty, ControlNetModel)
    with pytest.raises(UserError, match="found a PrunedSD3Transformer2DModel"):
        SD3ControlNetModel.from_transformer(pruned(sd3).transformer, num_layers=2)


def test_other_pipelines_accept_the_pruned_model():
    pipe = pruned(sd)
    # diffusers requires the unet by name: its class is not the exact one
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe, unet=pipe.unet)
    assert other.unet is pipe.unet
    back = StableDiffusionPipeline.from_pipe(other, unet=other.unet)
    assert torch.equal(latents(back), latents(pipe))


@pytest.mark.parametrize("pattern", ["unstructured", "structured"])
def test_quantised_weights_in_memory_are_refused(pattern):
    torchao = pytest.importorskip("torchao.quantization")
    pipe = sd3()
    torchao.quantize_(
        pipe.transformer.transformer_blocks[1].ff, torchao.Int8WeightOnlyConfig(version=2)
    )
    with pytest.raises(
        UserError,
        match=r"Int8Tensor in transformer_blocks\.1\.ff.*then quantise the result",
    ) as error:
        prune_(pipe, PROMPTS[:1], PruningConfig(pattern=pattern, packages=1, **QUICK))
    one_line(error)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_packed_weights_in_memory_are_refused(dtype):
    """bitsandbytes, GGUF and layerwise casting store bytes in place of the weights."""
    pipe = sd3()
    layer = pipe.transformer.transformer_blocks[0].attn.to_q
    layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(
        UserError, match=rf"found {dtype} in transformer_blocks\.0\.attn\.to_q\.weight"
    ):
        prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))
