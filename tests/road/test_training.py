"""What the training of the built-in models relies on."""

import torch

from training import loop, third_encoder
from training.mmdit import pooled_directions

CAPTIONS = ["red apple, noto style", "face with open eyes and hand over mouth, noto style"]


def test_the_third_encoder_is_zero_out_of_the_captions_reach():
    """The first READ tokens give the outputs that the pipeline's 256 give; all others are zero."""
    torch.manual_seed(0)
    tokenizer = third_encoder.build_tokenizer(CAPTIONS)
    encoder = third_encoder.build(tokenizer).eval()
    with torch.no_grad():
        whole = encoder(third_encoder.tokenize(tokenizer, CAPTIONS, 256))[0]
        short = encoder(third_encoder.tokenize(tokenizer, CAPTIONS))[0]
    kept = third_encoder.LENGTH
    assert torch.allclose(short[:, :kept], whole[:, :kept], atol=1e-6)
    assert whole[:, kept:].abs().max() < 1e-6
    assert short[:, kept].abs().max() < 1e-6
    assert whole[:, :5].abs().amax(2).min() > 0.1


def test_padding_and_far_positions_have_no_gradient():
    tokenizer = third_encoder.build_tokenizer(CAPTIONS)
    encoder = third_encoder.build(tokenizer)
    encoder(third_encoder.tokenize(tokenizer, CAPTIONS))[0].square().sum().backward()
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert not encoder.shared.weight.grad[0].any()
    assert encoder.shared.weight.grad.any()
    assert not bias.grad[7::8].any()


def test_words_are_tokens_and_other_words_are_spelt():
    tokenizer = third_encoder.build_tokenizer(CAPTIONS)
    assert tokenizer.tokenize("red apple, noto style") == ["▁red", "▁apple", ",", "▁noto", "▁style"]
    assert tokenizer.tokenize("red cat") == ["▁red", "▁", "c", "a", "t"]


def test_tokens_never_trained_are_forgotten():
    tokenizer = third_encoder.build_tokenizer(CAPTIONS)
    encoder = third_encoder.build(tokenizer)
    third_encoder.forget_(encoder, third_encoder.tokenize(tokenizer, CAPTIONS[:1]))
    known, unknown = (tokenizer.convert_tokens_to_ids(word) for word in ("▁apple", "▁face"))
    assert encoder.shared.weight[known].any()
    assert not encoder.shared.weight[unknown].any()


def test_pooled_directions_have_unit_variance_and_are_the_strongest():
    torch.manual_seed(0)
    x = torch.randn(500, 20) * torch.linspace(5, 0.1, 20)
    found = (x - x.mean(0)) @ pooled_directions(x).T
    covariance = found.T @ found / len(x)
    assert torch.allclose(covariance, torch.eye(len(covariance)), atol=1e-4)
    assert pooled_directions(x)[:, :8].abs().sum() > pooled_directions(x)[:, 8:].abs().sum()


def counted(layer: torch.nn.Module, steps: list[int]):
    """A loss of a layer that notes its steps."""

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        steps.append(step)
        return {"loss": layer(torch.ones(2, 3)).square().mean()}

    return loss_of


def test_a_run_by_the_clock_stores_its_last_step(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CACHE", tmp_path)
    layer, steps = torch.nn.Linear(3, 1), []
    optimizers = [loop.adamw(layer, 0.01, 0.0)]
    settings = {"steps": 10**9, "minutes": 0.003, "save_every": 1e9}
    loop.train("clock", layer, optimizers, counted(layer, steps), **settings)
    kept = torch.load(tmp_path / "clock.pt", weights_only=True)
    assert steps == list(range(len(steps)))
    assert kept["step"] == len(steps) > 1
    assert kept["seconds"] >= 0.18


def test_a_run_by_steps_ends_where_it_is_told_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CACHE", tmp_path)
    layer, steps = torch.nn.Linear(3, 1), []
    for until in (3, 5, None):
        optimizers = [loop.adamw(layer, 0.01, 0.0)]
        loop.train("part", layer, optimizers, counted(layer, steps), steps=7, until=until)
    assert steps == list(range(7))
