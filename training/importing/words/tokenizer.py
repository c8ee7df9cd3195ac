"""Turn texts into a checkpoint's token numbers, with the tokenizer in its own folder."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engines.regular_file import NotRegularFileError, open_regular
from training.errors import FolderError, RunError
from training.importing.folder import read_json
from training.importing.words.config import WordsConfig
from training.importing.words.prompts import Prompts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
MAX_TOKENIZER_BYTES: Final = 1 << 27
"""SigLIP 2 has the largest known: 34 MB."""
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


class TextTokenizer:
    """Turn texts into token numbers as the published model of this kind was trained.

    SigLIP and SigLIP 2 read lower-case texts, padded to the length of the context; SigLIP also drops punctuation.
    Raises `FolderError` where the folder has no tokenizer, or that of another model.
    """

    def __init__(self, folder: Path, config: WordsConfig) -> None:
        self.where, self.config = folder / TOKENIZER_FILE, config
        self.tokenizer = _read_tokenizer(folder)
        self.keys = read_json(folder / TOKENIZER_CONFIG_FILE) if (folder / TOKENIZER_CONFIG_FILE).is_file() else {}
        self.siglip = config.model_type.startswith("siglip")
        self.plain = self.siglip and str(self.keys.get("tokenizer_class", "")).startswith("SiglipTokenizer")
        self.special = sorted(
            token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special
        )
        self.pad = self._pad() if self.siglip else 0

    def encode(self, prompts: Prompts) -> list[list[list[int]]]:
        """Return the token numbers of each label's texts. Raises `FolderError` for a text that does not fit."""
        encoded: dict[str, list[list[int]]] = {}
        seen: dict[tuple[tuple[int, ...], ...], str] = {}
        for label in prompts.labels:
            encoded[label] = [self._encode(label, text) for text in prompts.texts(label)]
            key = tuple(tuple(tokens) for tokens in encoded[label])
            if key in seen:
                raise FolderError(
                    f"--labels: {seen[key]!r} and {label!r} are the same text for this model's tokenizer; "
                    "give only one of them"
                )
            seen[key] = label
        return list(encoded.values())

    def _encode(self, label: str, text: str) -> list[int]:
        given = next((token for token in self.special if token in text), None)
        if given is not None:
            raise FolderError(f"--labels: {label!r}: contains {given!r}, a mark of the tokenizer; remove it")
        if self.siglip:
            text = text.lower()
        if self.plain:
            text = re.sub(r"\s+", " ", text.translate(_PUNCTUATION)).strip()
        tokens = list(self.tokenizer.encode(text).ids)
        if not self.tokenizer.encode(text, add_special_tokens=False).ids:
            raise FolderError(f"--labels: {label!r}: this model's tokenizer finds no word in it; give it as words")
        limit = self.config.text.max_position_embeddings
        if len(tokens) > limit:
            raise FolderError(
                f"--labels: {label!r} has {len(tokens)} tokens (text: {text[:80]!r}), the model reads at most {limit}; "
                "shorten it"
            )
        if max(tokens) >= self.config.text.vocab_size:
            raise FolderError(
                f"{self.where}: has token number {max(tokens)}, but config.json's vocab_size is "
                f"{self.config.text.vocab_size}; they belong to different models"
            )
        if self.config.model_type == "clip":
            self._check_end(label, tokens)
        if not self.siglip:
            return tokens
        padding = [self.pad] * (limit - len(tokens))
        return padding + tokens if self._pads_left() else tokens + padding

    def _check_end(self, label: str, tokens: list[int]) -> None:
        """Raise `FolderError` unless the end token, which CLIP reads, is the last one and there is no other."""
        eos = self.config.text.eos_token_id
        # Before 2023 transformers wrote 2, which is not the number of CLIP's end token.
        if eos not in (None, 2) and tokens[-1] != eos:
            raise FolderError(
                f"{self.where}: ends texts with token {tokens[-1]}, but config.json's eos_token_id is {eos}; "
                "they belong to different models"
            )
        if tokens.index(tokens[-1]) < len(tokens) - 1:
            raise FolderError(f"--labels: {label!r}: has a character that the tokenizer does not know; remove it")

    def _pads_left(self) -> bool:
        """Tell the side of the padding; the default is that of the class in transformers."""
        side = self.keys.get("padding_side")
        return side == "left" if side is not None else self.keys.get("tokenizer_class") == "Siglip2Tokenizer"

    def _pad(self) -> int:
        """Return the number of the padding token. Raises `FolderError`."""
        token: Any = self.keys.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = self.tokenizer.token_to_id(token) if isinstance(token, str) else self.config.text.pad_token_id
        if number is None or number >= self.config.text.vocab_size:
            raise FolderError(
                f"{self.where.parent / TOKENIZER_CONFIG_FILE}: pad_token={token!r:.80}: not a token of "
                f"{TOKENIZER_FILE}; download both again"
            )
        return int(number)


def _read_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json; nothing is downloaded. Raises `FolderError`."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise RunError("labels in words need the package tokenizers: pip install tokenizers") from None
    path = folder / TOKENIZER_FILE
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_TOKENIZER_BYTES:
                raise FolderError(f"{path}: {size} bytes, at most {MAX_TOKENIZER_BYTES}; download it again")
            text = file.read(MAX_TOKENIZER_BYTES).decode("utf-8")
    except NotRegularFileError:
        raise FolderError(f"{path}: not a file; download it again") from None
    except FileNotFoundError:
        raise FolderError(
            f"{path}: missing, and labels in words need the model's tokenizer; download it, or write it with "
            "transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        ) from None
    except OSError as error:
        raise FolderError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError:
        raise FolderError(f"{path}: not JSON; download it again") from None
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower class
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise FolderError(f"{path}: not a tokenizer ({reason:.200}); download it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
