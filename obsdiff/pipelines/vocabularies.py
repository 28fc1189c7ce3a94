"""Vocabulary files of tokenizers: transformers opens a tokenizer without them as an empty one.

Every prompt then becomes the same unknown tokens. A tokenizer.json is enough for any class; without
it a class needs its own files. Imports no torch.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.regular_files import require_regular

WHOLE = "tokenizer.json"
PAIR = ("vocab.json", "merges.txt")
FILES = (  # beginning of a class's name -> the files that it needs
    (("CLIP", "GPT2", "Roberta", "Bart", "Qwen2", "Longformer", "LED", "BlenderbotTok"), PAIR),
    (("T5", "MT5", "UMT5", "Albert", "XLNet", "Pegasus", "BigBird"), ("spiece.model",)),
    (("XLMRoberta", "MBart", "Nllb", "Camembert"), ("sentencepiece.bpe.model",)),
    (("Llama", "Gemma", "CodeLlama"), ("tokenizer.model",)),
    (("Bert", "DistilBert", "MPNet", "Electra", "Funnel"), ("vocab.txt",)),
)
NO_FILES = ("ByT5", "Canine", "Perceiver", "Bytelevel")  # classes whose vocabulary is in their code
ANY = re.compile(r"tokenizer\.json|vocab\.(json|txt)|.*\.model|tekken\.json|.*\.tiktoken|.*\.bpe")
LARGEST = 200_000_000  # bytes of a vocabulary
FETCH = "fetch the pipeline again"


def require_vocabulary(folder: Path, cls: str) -> None:
    """Check that a tokenizer's folder has its vocabulary, and that it is not empty.

    Args:
        folder: the component's folder.
        cls: the class that model_index.json names; any class but a tokenizer's passes.

    Raises:
        UserError: a file is missing, empty or damaged; the message names it.
    """
    is_processor = cls.endswith("Processor") and (folder / "tokenizer_config.json").exists()
    if "Tokenizer" not in cls and not is_processor:
        return
    if (folder / WHOLE).exists():
        require_words(folder / WHOLE)
        return
    if cls.startswith(NO_FILES):
        return
    needed = next((files for names, files in FILES if cls.startswith(names)), None)
    if needed is None:
        require_any(folder, cls)
        return
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise UserError(
            f"{folder} has no vocabulary: {cls} needs {WHOLE}, or {' and '.join(needed)}; "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; {FETCH}"
        )
    for name in needed:
        require_words(folder / name)


def require_any(folder: Path, cls: str) -> None:
    """Check that the folder of a tokenizer of any class has some vocabulary; UserError if not."""
    found = [file for file in sorted(folder.iterdir()) if ANY.fullmatch(file.name)]
    if not found:
        raise UserError(f"{folder} has no vocabulary of {cls}: expected {WHOLE}; {FETCH}")
    for file in found:
        require_words(file)


def require_words(file: Path) -> None:
    """Check that a vocabulary file has words; UserError if it is empty or damaged."""
    size = require_regular(file).st_size
    if size > LARGEST:
        raise UserError(f"{file} has {size} bytes: expected a vocabulary; {FETCH}")
    if size == 0 or (file.suffix == ".json" and not has_words(file)):
        raise UserError(f"{file} is an empty vocabulary: no word is in it; {FETCH}")
    if file.suffix == ".txt" and not file.read_bytes().strip():
        raise UserError(f"{file} is an empty vocabulary: no word is in it; {FETCH}")


def has_words(file: Path) -> bool:
    """Return whether a JSON vocabulary has entries; UserError if it can't be read.

    A vocab.json has the words themselves; a tokenizer.json has them in its model.
    """
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} can't be read as a vocabulary: {error}; {FETCH}") from None
    if file.name == WHOLE:
        model = value.get("model") if isinstance(value, dict) else None
        value = model.get("vocab") if isinstance(model, dict) else None
    return isinstance(value, dict | list) and bool(value)


def require_vocabularies(classes: Iterable[tuple[Path, str]]) -> None:
    """Check the vocabularies of all tokenizers; pairs of a component's folder and class."""
    for folder, cls in classes:
        require_vocabulary(folder, cls)
