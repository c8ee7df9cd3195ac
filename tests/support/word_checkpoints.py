"""Save small random models with text towers and tokenizers, and compute their similarities with transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from support.checkpoints import save_checkpoint

from engines.arrays import F32, U8

KINDS = ("clip", "siglip", "siglip2", "naflex", "videoprism")
SIDE, FRAMES = 32, 4
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_LETTERS = "abcdefghijklmnopqrstuvwxyz,!"


def save_words(path: Path, kind: str, *, processor: Any = None, **text: Any) -> Path:
    """Save a random model of `kind` with processor and tokenizer; `text` changes keys of the text tower."""
    import transformers

    tokenizer = _tokenizer(kind)
    size = {"vocab_size": 64, "max_position_embeddings": 48}
    words = {**_TOWER, **size, **text}
    vision: dict[str, Any] = {**_TOWER, "image_size": SIDE, "patch_size": 8}
    if kind == "clip":
        words = {"eos_token_id": tokenizer.eos_token_id, **words}
        model: Any = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=words, vision_config={**vision, "hidden_size": 48}, projection_dim=24)
        )
        processor = processor or transformers.CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )
    elif kind in ("siglip", "siglip2"):
        config = transformers.SiglipConfig(text_config={"pad_token_id": 0, **words}, vision_config=vision)
        model = transformers.SiglipModel(config)
        processor = processor or transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    elif kind == "naflex":
        vision = {**_TOWER, "patch_size": 8, "num_patches": 16}
        model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=words, vision_config=vision))
        processor = processor or transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    else:
        del vision["num_hidden_layers"], vision["patch_size"]
        vision |= {"tubelet_size": [1, 8, 8], "num_frames": FRAMES, "num_auxiliary_layers": 1}
        vision |= {"num_spatial_layers": 1, "num_temporal_layers": 1}
        model = transformers.VideoPrismClipModel(transformers.VideoPrismConfig(text_config=words, vision_config=vision))
        processor = processor or transformers.LlavaOnevisionVideoProcessor(
            size={"height": SIDE, "width": SIDE}, do_normalize=False
        )
    tokenizer.save_pretrained(path)
    if kind == "siglip":
        keys = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
        (path / "tokenizer_config.json").write_text(json.dumps({**keys, "tokenizer_class": "SiglipTokenizer"}))
    return save_checkpoint(path, model, processor)


def similarities(folder: Path, kind: str, frames: U8, texts: Sequence[Sequence[str]]) -> F32:
    """Return the logits (K,) of one window of frames (T, H, W, 3), from transformers' own embeddings.

    `texts`: the texts of each label, whose normalised embeddings are averaged.
    """
    import transformers

    model: Any = getattr(transformers, _CLASSES[kind]).from_pretrained(folder).eval()
    tokenizer = _load_tokenizer(folder)
    with torch.inference_mode():
        labels = torch.stack([F.normalize(_embed(model, tokenizer, kind, t).mean(dim=0), dim=-1) for t in texts])
        if kind == "videoprism":
            pixels = transformers.AutoVideoProcessor.from_pretrained(folder)(
                frames, return_tensors="pt", do_sample_frames=False
            )
            video = model.get_video_features(**pixels).pooler_output.reshape(-1)
            return (labels @ F.normalize(video, dim=-1) / 0.01).numpy()
        inputs = transformers.AutoImageProcessor.from_pretrained(folder)(list(frames), return_tensors="pt")
        images = F.normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
        cosines = labels @ F.normalize(images.mean(dim=0), dim=-1)
        bias = 0.0 if kind == "clip" else model.logit_bias.item()
        return (cosines * math.exp(model.logit_scale.item()) + bias).numpy()


def own_logits(folder: Path, kind: str, frame: U8, texts: Sequence[str]) -> F32:
    """Return `logits_per_image` (K,) of transformers for one frame (H, W, 3), of CLIP, SigLIP and SigLIP 2."""
    import transformers

    model: Any = getattr(transformers, _CLASSES[kind]).from_pretrained(folder).eval()
    inputs = transformers.AutoImageProcessor.from_pretrained(folder)([frame], return_tensors="pt")
    words = _inputs(_load_tokenizer(folder), kind, texts)
    with torch.inference_mode():
        logits: F32 = model(**inputs, **words).logits_per_image[0].numpy()
    return logits


_CLASSES = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "SiglipModel",
    "naflex": "Siglip2Model",
    "videoprism": "VideoPrismClipModel",
}


def _embed(model: Any, tokenizer: Any, kind: str, texts: Sequence[str]) -> torch.Tensor:
    embedded = model.get_text_features(**_inputs(tokenizer, kind, texts)).pooler_output
    return F.normalize(embedded, dim=-1)


def _inputs(tokenizer: Any, kind: str, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return token numbers as the published models read them; SigLIP's are padded without a mask."""
    if kind == "siglip":  # transformers drops the punctuation in Python, before tokenizer.json
        texts = ["".join(c for c in text.lower() if c.isalnum() or c == " ") for text in texts]
    siglip = kind in ("siglip", "siglip2", "naflex")
    padding = "max_length" if siglip else True
    inputs = tokenizer(list(texts), padding=padding, max_length=48, truncation=True, return_tensors="pt")
    names = ("input_ids",) if siglip else ("input_ids", "attention_mask")
    return {name: inputs[name] for name in names}


def _load_tokenizer(folder: Path) -> Any:
    import transformers

    keys = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    name = keys["tokenizer_class"]
    name = "PreTrainedTokenizerFast" if name == "SiglipTokenizer" else name
    return getattr(transformers, name).from_pretrained(folder)


def _tokenizer(kind: str) -> Any:
    """Make a tokenizer of single letters, and of a few words for VideoPrism."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    if kind == "clip":
        tokens = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
        return transformers.CLIPTokenizer({token: i for i, token in enumerate(tokens)}, [])
    if kind == "videoprism":
        special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
        letters = [(f"{mark}{letter}", -3.0) for mark in ("▁", "") for letter in _LETTERS]
        return transformers.VideoPrismTokenizer([*special, ("▁", -4.0), *letters], extra_ids=0)
    if kind in ("siglip2", "naflex"):
        tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *_LETTERS]
        made = transformers.Siglip2Tokenizer(
            {token: i for i, token in enumerate(tokens)}, [], padding_side="left" if kind == "naflex" else "right"
        )
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <eos>", special_tokens=[("<eos>", 1)]
        )
        return made
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *((c, -3.0) for c in f"▁{_LETTERS}")], unk_id=0))
    unigram.normalizer = normalizers.Lowercase()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=unigram, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )


def random_window(seed: int = 0) -> U8:
    """Return (FRAMES, SIDE, SIDE, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
