"""The experiment on text encoders: what it removes from a CLIP and a T5, and its table."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from benchmarks.paper.text_encoders import OFF, TARGETS, linear_layers, units
from benchmarks.paper.text_encoders_texts import text_encoders_table
from obsdiff.calibration.hessian import Hessian


def clip():
    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=8,
        )
    )  # fmt: skip


def t5(gated=True):
    torch.manual_seed(0)
    return T5EncoderModel(
        T5Config(
            vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu" if gated else "relu",
        )
    )  # fmt: skip


def hessians_of(encoder):
    found = {}
    for name, layer in linear_layers(encoder).items():
        found[name] = Hessian.zeros(layer.in_features)
        found[name].update(torch.randn(200, layer.in_features))
    return found


@pytest.mark.parametrize(("make", "produces"), [(clip, 1), (t5, 2), (lambda: t5(False), 1)])
def test_every_attention_and_ffn_is_found(make, produces):
    encoder = make()
    heads, neurons = units(encoder, "heads"), units(encoder, "neurons")
    assert [(len(unit.produces), unit.width) for unit in heads] == [(3, 4)] * 2
    assert [(len(unit.produces), unit.width) for unit in neurons] == [(produces, 1)] * 2
    named = {name for unit in (*heads, *neurons) for name in (*unit.produces, unit.consumes)}
    assert named == set(linear_layers(encoder))


@pytest.mark.parametrize("make", [clip, t5])
@pytest.mark.parametrize("target", TARGETS)
def test_the_share_of_the_target_leaves_by_every_method(make, target):
    prune_, methods, settings = TARGETS[target]
    for method in methods:
        dense, pruned = make(), make()
        gone = prune_(pruned, hessians_of(pruned), method, settings)
        if target == OFF:
            tokens = torch.ones(1, 4, dtype=torch.int64)
            found = pruned(tokens, output_hidden_states=True)
            outputs = [found[0], *found.hidden_states]
            assert len(outputs) == 4
            assert not any(x.any() for x in outputs)
            assert dense(tokens)[0].any()
            assert gone == sum(p.numel() for p in dense.parameters())
            continue
        layers = linear_layers(pruned)
        if "kind" not in settings:
            total = sum(layer.weight.numel() for layer in layers.values())
            zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
            assert gone == zeros
            assert zeros / total == pytest.approx(settings.get("sparsity", 0.5), abs=0.02)
            continue
        for unit in units(pruned, settings["kind"]):
            empty = (layers[unit.consumes].weight == 0).all(0).view(-1, unit.width)
            assert int(empty.all(1).sum()) == round(settings["sparsity"] * len(empty))
        changed = {unit.consumes for unit in units(pruned, settings["kind"])}
        for name in set(layers) - changed:
            assert torch.equal(layers[name].weight, linear_layers(dense)[name].weight)


def test_the_table_has_a_line_an_encoder_and_target():
    figure = {"value": 0.1, "low": 0.05, "high": 0.2, "per_prompt": [0.05, 0.2]}
    row = {
        "encoder": "text_encoder", "target": "50%", "removed": 40, "parameters": 100,
        "metrics": {"relative_latent_error": figure}, "held_out": {"relative_latent_error": figure},
    }  # fmt: skip
    worse = {**figure, "value": 0.9, "per_prompt": [0.8, 1.0]}
    other = row | {"metrics": {"relative_latent_error": worse}}
    text = text_encoders_table({
        "text_encoder: 50%, magnitude": other, "text_encoder: 50%, obs": row,
        f"text_encoder: {OFF}, {OFF}": row | {"target": OFF},
    })  # fmt: skip
    line, worst, held_out, _ = (part.splitlines()[2] for part in text.split("\n\n"))
    assert "held-out names" in text
    assert held_out.count("0.1000") == 3
    assert len(text.splitlines()) == 15
    assert line.startswith("| `text_encoder`, 0.00 M | 50% | 40% | 0.9000")
    assert line.endswith("| | 0.1000 <sub>0.0500 to 0.2000</sub> |")
    assert "**0.1000**" in line
    assert worst == "| `text_encoder`, 50% | 1.000, 100% | | 0.200 | | 0.200, 0% |"
