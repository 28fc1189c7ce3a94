"""Metric models from the hub, for --download; and the words that ask for them.

A hub id: of its repository the files that a metric reads, at one commit, into the hub's cache. The
networks of FID and LPIPS, which no hub has: from where their authors publish them, into torch's
cache, checked by the SHA-256 in their names. Imports no torch before something is to be downloaded.
"""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

from ...errors import RunFailed, UserError
from ...pipelines.hub import Unreached, explained, first_line, listed, reached, readable
from ...pipelines.hub_files import TOKENIZER, model_files
from ...runtime.progress import say

USUAL = {  # the published model of each metric
    "clip": "openai/clip-vit-large-patch14",
    "pickscore": "yuvalkirstain/PickScore_v1",
    "image_reward": "THUDM/ImageReward",
    "geneval": "facebook/mask2former-swin-small-coco-instance",
    "dpg": "Salesforce/blip-vqa-capfilt-large",
}
BERT = "google-bert/bert-base-uncased"  # whose tokenizer ImageReward has
REWARD_WEIGHTS = ("ImageReward.safetensors", "ImageReward.pt")
MED_CONFIG = "med_config.json"
FIRST = ("config.json", MED_CONFIG, "tokenizer.json", "vocab.txt")  # one is in every repository
PUBLISHED = {  # the weights that a metric reads from torch's cache
    "features": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "lpips": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
}
# fields of Judges that may be hub ids
OF_HUB = ("clip", "features", "pickscore", "image_reward", "geneval", "dpg")
SECONDS = 30  # for a server to answer


def how_to(name: str) -> str:
    """Return the flags that make a metric run: --clip owner/name --download."""
    return f"--{name.replace('_', '-')} {USUAL[name]} --download"


def is_hub_id(value: str) -> bool:
    """Return whether a value is no path of this machine, and can be a hub id."""
    return not Path(value).exists() and bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", value))


def download_judge(name: str, hub_id: str) -> Path:
    """Download the files of a metric model that the hub's cache lacks, and return its folder.

    Args:
        name: the field of Judges that it is for.
        hub_id: owner and name.

    Raises:
        UserError: the hub has no such model or can't be reached, or the model can't be used.
        RunFailed: the download broke off.
    """
    if name != "image_reward":
        return download_files(name, hub_id, lambda names: model_files(names, name))
    folder = download_files(name, hub_id, reward_files)
    if not has_tokenizer(folder):
        download_files(name, BERT, lambda names: [file for file in TOKENIZER if file in names])
    return folder


def download_files(name: str, hub_id: str, choose: Callable[[set[str]], list[str]]) -> Path:
    """Download some files of a repository, and return its folder in the hub's cache.

    Args:
        name: the field of Judges that they are for.
        hub_id: owner and name.
        choose: the paths of all files -> those to download, a small one first.
    """
    from huggingface_hub import hf_hub_download

    flag = name.replace("_", "-")
    with explained(hub_id, flag):
        try:
            with reached():
                repository = listed(hub_id)
                files = choose(set(repository.sizes))
                hf_hub_download(hub_id, files[0])  # by branch: the cache then knows its commit
        except Unreached as error:
            return cached(flag, hub_id, str(error))
        repository.announce(files)
        return repository.fetch(files)


def cached(flag: str, hub_id: str, why: str) -> Path:
    """Return the folder of a repository in the hub's cache, without the hub.

    Args:
        flag: that the model was given for, for messages.
        hub_id: owner and name.
        why: the reason why the hub can't be reached.

    Raises:
        UserError: the cache has nothing of it.
    """
    folder = cached_folder(hub_id)
    if folder is None:
        raise UserError(
            f"{flag}: {hub_id!r} is no folder here, the hub can't be reached ({why}), and its "
            f"cache has nothing of it; fetch it where there is a network: hf download {hub_id}"
        )
    say(f"{hub_id}: the hub can't be reached ({why}); uses the hub's cache, {folder}")
    return folder


def cached_folder(hub_id: str) -> Path | None:
    """Return the folder of a repository in the hub's cache; None if there is none.

    It need not be whole: a metric reads a few of its files, and their absence is named later.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(hub_id, name) for name in FIRST]
    except HFValidationError:
        return None
    return next((Path(file).parent for file in found if isinstance(file, str)), None)


def reward_files(names: set[str]) -> list[str]:
    """Return the files of ImageReward that a repository has; UserError if it lacks one."""
    weights = [file for file in REWARD_WEIGHTS if file in names][:1]
    if MED_CONFIG not in names or not weights:
        raise UserError(
            f"image-reward: expected {MED_CONFIG} and {' or '.join(REWARD_WEIGHTS)} on the hub, "
            f"found {', '.join(sorted(names)[:5])}; nothing was downloaded"
        )
    return [MED_CONFIG, *(file for file in TOKENIZER if file in names), *weights]


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the tokenizer of BERT."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))


def reward_tokenizer(folder: Path) -> Path | None:
    """Return the folder of ImageReward's tokenizer: its own, or BERT's in the hub's cache."""
    if has_tokenizer(folder):
        return folder
    bert = cached_folder(BERT)
    return bert if bert is not None and has_tokenizer(bert) else None


def download_published(name: str) -> None:
    """Download the published weights of a metric into torch's cache, unless they are there.

    Args:
        name: a key of PUBLISHED.

    Raises:
        UserError: the server can't be reached.
        RunFailed: the download broke off, or its content has another hash than its name says.
    """
    import torch

    from .inception import INCEPTION_FILES

    url, folder = PUBLISHED[name], Path(torch.hub.get_dir()) / "checkpoints"
    file = url.rsplit("/", 1)[1]
    if any((folder / known).is_file() for known in (file, *INCEPTION_FILES * (name == "features"))):
        return
    try:
        with urlopen(Request(url, method="HEAD"), timeout=SECONDS) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
    except OSError as error:
        raise UserError(
            f"{name}: {url} can't be reached ({first_line(error)}); fetch it where there is a "
            f"network, into {folder}"
        ) from None
    say(f"{file}: downloads {readable(size)} from {url.split('/')[2]}")
    folder.mkdir(parents=True, exist_ok=True)
    digest = file.rpartition("-")[2].partition(".")[0]
    try:
        torch.hub.download_url_to_file(url, str(folder / file), digest, progress=False)
    except (OSError, RuntimeError) as error:
        raise RunFailed(
            f"{file}: the download broke off: {first_line(error)}; the same command begins it anew"
        ) from None
