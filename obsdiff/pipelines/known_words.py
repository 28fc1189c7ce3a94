"""Whether a pipeline's tokenizers know the prompts: not all unknown, not all the same tokens."""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .call import Prompt

READ = 64  # prompts that are looked at
LONGEST = 1_000  # characters of one


def require_known_words(pipe: Any, prompts: Iterable[Prompt]) -> None:
    """Check what the prompts become in every tokenizer of a pipeline.

    Args:
        pipe: a diffusers pipeline.
        prompts: texts; of dicts, the prompt that is a text.

    Raises:
        UserError: a tokenizer makes unknown tokens of all prompts, or the same of different ones.
    """
    texts = [p if isinstance(p, str) else p.get("prompt") for p in prompts]
    found = dict.fromkeys(t[:LONGEST] for t in texts if isinstance(t, str) and t.strip())
    distinct = list(found)[:READ]
    for name, part in pipe.components.items():
        if isinstance(part, PreTrainedTokenizerBase) and distinct:
            check_tokens(name, part, distinct)


def check_tokens(name: str, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """Check one tokenizer; UserError as require_known_words.

    Args:
        name: the component.
        tokenizer: the tokenizer.
        texts: different texts, none of them blank.
    """
    try:
        tokens = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise UserError(
            f"{name}: {type(tokenizer).__name__} can't encode the prompts: "
            f"{' '.join(str(error).split())[:160]}; check its files"
        ) from error
    remedy = "check its vocabulary, or pass prompts in its language"
    unknown = tokenizer.unk_token_id
    if all(set(ids) <= {unknown} for ids in tokens):
        raise UserError(
            f"{name}: every token of the calibration prompts is unknown to its "
            f"{len(tokenizer)} words; {remedy}"
        )
    if len(texts) > 1 and len(set(tokens)) == 1:
        raise UserError(
            f"{name}: all {len(texts)} calibration prompts become the same tokens; {remedy}"
        )
