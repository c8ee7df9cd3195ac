"""Rename and reshape a checkpoint's tensors for the towers of `training.importing.words.towers`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.errors import FolderError
from training.importing.learned_query import convert_pooling
from training.importing.state_dict import CheckpointTensors
from training.importing.videoprism import convert_layer, convert_norm, convert_video_tower
from training.importing.words.config import ImageConfig, LvtConfig, TextConfig, TowerConfig, WordsConfig
from training.weights import State

_NAMES = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
MAX_SCALE = 1e4
"""A bound on the factor of the cosine. CLIP's training limits it to 100; SigLIP's published models have about 117."""


def convert_vision(config: WordsConfig, tensors: CheckpointTensors, *, interpolate: bool) -> State:
    """Return the `state_dict` of encoder and head, without the texts. Raises `FolderError` for a missing tensor."""
    if isinstance(config.vision, LvtConfig):
        tensors.state = {name.removeprefix("video_model."): tensor for name, tensor in tensors.state.items()}
        return convert_video_tower(
            config.vision,
            tensors,
            norm="head_layernorm",
            auxiliary=config.vision.num_auxiliary_layers,
            interpolate=interpolate,
        )
    theirs, ours = "vision_model", "encoder"
    state = _tower(config.vision, tensors, theirs, ours)
    state |= tensors.renamed(f"{theirs}.post_layernorm", f"{ours}.norm")
    state |= {f"{ours}.positions": tensors.pop(f"{theirs}.embeddings.position_embedding.weight")[None]}
    state |= _patches(config, config.vision, tensors, f"{theirs}.embeddings.patch_embedding")
    if config.model_type == "clip":
        state |= {f"{ours}.class_token": tensors.pop(f"{theirs}.embeddings.class_embedding")[None, None]}
        state |= tensors.renamed(f"{theirs}.pre_layrnorm", f"{ours}.norm_before")
        return state | {"head.project.weight": tensors.pop("visual_projection.weight")}
    return state | _siglip_pooling(config.vision, tensors, f"{theirs}.head")


def _patches(config: WordsConfig, vision: ImageConfig, tensors: CheckpointTensors, theirs: str) -> State:
    """Rename the patch embedding, which is a product with flattened patches in NaFlex models."""
    weight, dim, patch = tensors.pop(f"{theirs}.weight"), vision.hidden_size, vision.patch_size
    if config.model_type == "siglip2" and weight.shape == (dim, 3 * patch * patch):
        weight = weight.reshape(dim, patch, patch, 3).permute(0, 3, 1, 2).contiguous()
    bias = tensors.pop_bias(f"{theirs}.bias", dim, bias=config.model_type != "clip")
    return {"encoder.embed.project.weight": weight, "encoder.embed.project.bias": bias}


def _siglip_pooling(vision: ImageConfig, tensors: CheckpointTensors, theirs: str) -> State:
    """Convert SigLIP's pooling; PyTorch's own attention keeps its three projections in one tensor."""
    dim, heads = vision.hidden_size, vision.num_attention_heads
    for kind, shape in (("weight", (3 * dim, dim)), ("bias", (3 * dim,))):
        joined = tensors.pop(f"{theirs}.attention.in_proj_{kind}", shape)
        parts = zip("qkv", joined.chunk(3), strict=True)
        tensors.state |= {f"{theirs}.attention.{name}_proj.{kind}": part.contiguous() for name, part in parts}
    query = tensors.pop(f"{theirs}.probe", (1, 1, dim)).flatten()
    scale = torch.full((dim // heads,), (dim // heads) ** -0.5, dtype=torch.float64)
    state = convert_pooling(tensors, f"{theirs}.attention", "encoder.pool", query=query, scale=scale, heads=heads)
    state |= tensors.renamed(f"{theirs}.attention.out_proj", "encoder.out")
    state |= tensors.renamed(f"{theirs}.layernorm", "encoder.norm_pooled")
    return state | _mlp(tensors, f"{theirs}.mlp", "encoder.mlp")


def convert_text(config: WordsConfig, tensors: CheckpointTensors) -> State:
    """Return the `state_dict` of the text tower. Raises `FolderError` if the checkpoint has none."""
    if not any(name.startswith("text_model.") for name in tensors.state):
        raise FolderError(f"{tensors.where}: has no text tower (no tensor text_model.*); download the whole model")
    text, theirs = config.text, "text_model"
    state = {"tokens.weight": tensors.pop(f"{theirs}.embeddings.token_embedding.weight")}
    if config.model_type == "videoprism":
        tensors.pop_first(f"{theirs}.embeddings.position_embedding")  # sinusoids
        state |= {"class_token": tensors.pop(f"{theirs}.embeddings.cls_emb")}
        for index in range(text.num_hidden_layers):
            state |= convert_layer(tensors, f"{theirs}.layers.{index}", f"layers.{index}", text)
        return state | convert_norm(tensors, f"{theirs}.layernorm", "norm")
    state |= {"positions": tensors.pop(f"{theirs}.embeddings.position_embedding.weight")[None]}
    state |= _tower(text, tensors, theirs, "")
    state |= tensors.renamed(f"{theirs}.final_layer_norm", "norm")
    if config.model_type == "clip":
        return state | {"project.weight": tensors.pop("text_projection.weight")}
    return state | tensors.renamed(f"{theirs}.head", "project")


def pop_scale(config: WordsConfig, tensors: CheckpointTensors) -> tuple[float | None, float]:
    """Return the factor of the cosine and the bias. VideoPrism's checkpoints have no factor. Raises `FolderError`."""
    if config.model_type == "videoprism":
        return None, 0.0
    scale = _number(tensors, "logit_scale")
    if not scale < math.log(MAX_SCALE):
        raise FolderError(f"{tensors.where}: logit_scale={scale:g}: its exponential must be less than {MAX_SCALE:g}")
    return math.exp(scale), 0.0 if config.model_type == "clip" else _number(tensors, "logit_bias")


def _number(tensors: CheckpointTensors, name: str) -> float:
    tensor: Tensor = tensors.pop(name)
    if tensor.numel() != 1:
        raise FolderError(f"{tensors.where}: {name} has {tensor.numel()} values, expected 1")
    return float(tensor.item())


def _tower(config: TowerConfig | TextConfig, tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    """Rename the layers of one tower."""
    state: State = {}
    for index in range(config.num_hidden_layers):
        layer, own = f"{theirs}.encoder.layers.{index}", f"{ours}.layers.{index}".removeprefix(".")
        state |= tensors.projections(f"{layer}.self_attn", f"{own}.attention", _NAMES, config.hidden_size)
        state |= tensors.renamed(f"{layer}.layer_norm1", f"{own}.norm1")
        state |= tensors.renamed(f"{layer}.layer_norm2", f"{own}.norm2")
        state |= _mlp(tensors, f"{layer}.mlp", f"{own}.mlp")
    return state


def _mlp(tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    return tensors.renamed(f"{theirs}.fc1", f"{ours}.0") | tensors.renamed(f"{theirs}.fc2", f"{ours}.2")
