import pytest
import torch

import obsdiff
from obsdiff import PruningConfig, UserError

from ..conftest import PROMPTS, sd3

SMALL = {"num_inference_steps": 3}


def alone(config):
    pipe = sd3()
    obsdiff.prune_(pipe, PROMPTS[:3], config)
    return pipe.transformer.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("calibration", ["single", "replay"])
def test_each_output_is_what_its_own_run_would_give(calibration):
    several = {"unstructured": [0.3, 0.6], "2:4": [None], "structured": [0.3]}
    configs = [
        PruningConfig(**SMALL, calibration=calibration, pattern=pattern, sparsity=s)
        for pattern, some in several.items()
        for s in some
    ]
    calls = []
    pipe = sd3()
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    with obsdiff.dense_pass(pipe, PROMPTS[:3], configs) as dense:
        assert (
            len(calls) == {"single": 3, "replay": 3 + 3}[calibration]
        )  # replay tries three segments
        for config in configs:
            pipe = sd3()
            report = obsdiff.prune_(pipe, PROMPTS[:3], config, dense=dense)
            assert report.seconds["shared dense pass"] == dense.seconds > 0
            expected = alone(config)
            assert all(
                torch.equal(w, expected[name]) for name, w in pipe.transformer.state_dict().items()
            )


def test_what_can_not_share_a_pass_is_refused():
    config = PruningConfig(**SMALL, calibration="single")
    for other, words in [
        ({"seed": 1}, "seed has to be the same"),
        ({"calibration": "replay"}, "calibration has to be the same"),
    ]:
        with (
            pytest.raises(UserError, match=words),
            obsdiff.dense_pass(
                sd3(), PROMPTS, [config, PruningConfig(**SMALL | {"calibration": "single"} | other)]
            ),
        ):
            pass
    with (
        pytest.raises(UserError, match="live has none to share"),
        obsdiff.dense_pass(sd3(), PROMPTS, [PruningConfig(**SMALL, calibration="live")]),
    ):
        pass


@pytest.mark.slow
def test_a_pass_of_other_prompts_or_layers_is_refused():
    config = PruningConfig(**SMALL, calibration="single", target="ffn")
    with obsdiff.dense_pass(sd3(), PROMPTS[:3], [config]) as dense:
        with pytest.raises(UserError, match="other prompts, seeds or settings"):
            obsdiff.prune_(sd3(), PROMPTS[:2], config, dense=dense)
        with pytest.raises(UserError, match=r"no Hessian for transformer_blocks\.0\.attn\.to_q"):
            obsdiff.prune_(
                sd3(), PROMPTS[:3], PruningConfig(**SMALL, calibration="single"), dense=dense
            )


@pytest.mark.parametrize("calibration", ["single", "replay"])
def test_the_pipeline_is_as_it_was_inside_the_block(calibration):
    def latents(pipe):
        return pipe(
            PROMPTS[0],
            generator=torch.Generator().manual_seed(0),
            num_inference_steps=3,
            output_type="latent",
        ).images

    pipe = sd3()
    before, scheduler = latents(pipe), pipe.scheduler
    with obsdiff.dense_pass(pipe, PROMPTS[:3], [PruningConfig(**SMALL, calibration=calibration)]):
        assert pipe.scheduler is scheduler
        assert torch.equal(latents(pipe), before)


def test_a_pass_without_a_trajectory_is_no_pass_to_replay():
    single, replay = (
        PruningConfig(**SMALL, calibration=calibration) for calibration in ("single", "replay")
    )
    with (
        obsdiff.dense_pass(sd3(), PROMPTS[:3], [single]) as dense,
        pytest.raises(UserError, match="no trajectory to replay"),
    ):
        obsdiff.prune_(sd3(), PROMPTS[:3], replay, dense=dense)


def test_no_config_is_an_error():
    with (
        pytest.raises(UserError, match="expected at least one config"),
        obsdiff.dense_pass(sd3(), [], []),
    ):
        pass
