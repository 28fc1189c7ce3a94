"""The node that opens a file which `obsdiff export DIR --to comfyui` wrote."""

import folder_paths

from .pruned_model import load_pruned

FOLDER = "diffusion_models"


class LoadPrunedDiffusionModel:
    """A denoiser without some of its heads and neurons, at its own size."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "advanced/loaders"
    DESCRIPTION = "Opens a denoiser that obsdiff pruned, with the heads and neurons that it has."

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802 - the name that ComfyUI calls
        """Return the inputs of the node."""
        return {"required": {"unet_name": (folder_paths.get_filename_list(FOLDER),)}}

    def load(self, unet_name: str) -> tuple:
        """Return the model of a file in ComfyUI's folder of diffusion models."""
        return (load_pruned(folder_paths.get_full_path_or_raise(FOLDER, unet_name)),)
