"""Muon: momentum whose matrix update is brought close to orthogonal.

    update = 0.2 sqrt(max(rows, columns)) * orthogonal(beta m + g),  m = beta m + g
    orthogonal(G): five Newton-Schulz steps X <- a X + (b A + c A A) X with A = X X^T

torch.optim.Muon does the same in bfloat16, which CPUs without bf16 units emulate some fifty times
slower; this one stays in float32. A convolution's kernel counts as the matrix (out, in * height *
width). The factor makes its learning rates comparable with AdamW's.

References:
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
        https://kellerjordan.github.io/posts/muon/
    Liu et al., "Muon is Scalable for LLM Training", 2025. https://arxiv.org/abs/2502.16982
"""

import torch
from torch import nn

A, B, C = 3.4445, -4.7750, 2.0315
STEPS = 5


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """A matrix with the singular vectors of g, (O, I), and singular values near 1. For oblong
    matrices the steps are taken on the small side's Gram matrix, with the same result at two thirds
    of the cost."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / x.norm().clamp(min=1e-7)
    x = on_gram(x) if x.shape[1] >= 2 * x.shape[0] else direct(x)
    return x.T if g.shape[0] > g.shape[1] else x


def direct(x: torch.Tensor) -> torch.Tensor:
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


def on_gram(x: torch.Tensor) -> torch.Tensor:
    gram, total = x @ x.T, None
    for step in range(STEPS):
        factor = torch.addmm(gram, gram, gram, beta=B, alpha=C)
        factor.diagonal().add_(A)
        total = factor if total is None else factor @ total
        if step < STEPS - 1:
            gram = factor @ gram @ factor
    return total @ x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                update = orthogonal(p.grad.add(m, alpha=group["momentum"]).flatten(1)).view(p.shape)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(len(p), p[0].numel()) ** 0.5)


def split(
    model: nn.Module, inside: tuple[str, ...]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters for Muon (matrices and convolutions whose name holds one of `inside`) and the
    others, for AdamW."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        (matrices if p.ndim in (2, 4) and any(part in name for part in inside) else others).append(
            p
        )
    return matrices, others


def optimizers(
    model: nn.Module, inside: tuple[str, ...], lr: float, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    matrices, others = split(model, inside)
    adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)
    return [Muon(matrices, lr=lr, weight_decay=weight_decay), adamw] if matrices else [adamw]
