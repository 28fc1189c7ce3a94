"""Settings that are arguments of a pipeline's call. No torch."""

CALL_SETTINGS = ("num_inference_steps", "guidance_scale", "height", "width")
