"""Define the recipe of ViViT's four published variants and their sizes (Arnab et al. 2021, sections 3.3 and 4.1)."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, model_validator

from training.models.base import BaseModelRecipe, ClipModel
from training.models.image_backbones import ImageVit
from training.models.input_pixels import InputKind
from training.models.layers import Pool
from training.models.vivit.factorised_dot import FactorisedDotHead
from training.models.vivit.factorised_encoder import FactorisedEncoderViViT
from training.models.vivit.factorised_self import FactorisedSelfHead
from training.models.vivit.joint import JointHead
from training.models.vivit.tubelets import EmbeddingKind, Inflation, Tubelets
from training.models.vivit.window import WindowViViT

Size = Literal["Ti", "S", "B", "L"]

SIZES: Final[dict[Size, dict[str, int]]] = {
    "Ti": {"dim": 192, "heads": 3, "layers": 12},
    "S": {"dim": 384, "heads": 6, "layers": 12},
    "B": {"dim": 768, "heads": 12, "layers": 12},
    "L": {"dim": 1024, "heads": 16, "layers": 24},
}
"""The sizes of the image ViTs; MLPs are four times as wide. B/16x2 is size B, patch 16, 2 frames per chunk."""


class VivitRecipe(BaseModelRecipe):
    """The recipe keys of all four variants; `dim`, `heads` and `layers` override parts of `size`."""

    kind: Literal["vivit"] = "vivit"
    variant: Literal["joint", "factorised_encoder", "factorised_self", "factorised_dot"] = "factorised_encoder"
    size: Size = Field("B", description="dim, heads and layers of the paper's Ti, S, B and L")
    dim: int | None = Field(None, ge=8, description="overrides the size")
    heads: int | None = Field(None, ge=1, description="overrides the size")
    layers: int | None = Field(None, ge=1, description="overrides the size")
    temporal_layers: int | None = Field(
        None, ge=1, description="layers of factorised_encoder's temporal transformer; 4 by default"
    )
    mlp_ratio: float = Field(4.0, gt=0)
    patch: int = Field(16, ge=1, description="pixels")
    pool: Pool | None = Field(None, description="class or mean; by default class if the variant has a class token")
    embedding: EmbeddingKind = Field(
        "tubelet", description="tubelet embeds all frames of a chunk, uniform the middle one"
    )
    input: InputKind = Field("rgb", description="frames, differences of neighbouring frames within a chunk, or both")
    channels: Literal[1, 3] = Field(3, description="1 for grey frames: reads the first of the three channels")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the last layer; 0 at the first")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classifier")
    image_vit: str | None = Field(
        None, description="image ViT to start from: a .safetensors with timm's tensor names, or a name in timm"
    )
    inflation: Inflation = Field("central", description="how its patch embedding is extended to several frames")

    @model_validator(mode="after")
    def _fits_the_variant(self) -> VivitRecipe:
        if self.variant in ("factorised_self", "factorised_dot") and self.pool == "class":
            raise ValueError(f"pool=class: variant {self.variant} has no class token; remove the key or set it to mean")
        if self.variant != "factorised_encoder" and self.temporal_layers is not None:
            raise ValueError(
                f"temporal_layers={self.temporal_layers}: only factorised_encoder has them; remove the key"
            )
        sizes = self.sizes()
        if sizes["dim"] % sizes["heads"]:
            raise ValueError(f"dim={sizes['dim']}: must be a multiple of heads={sizes['heads']}")
        if self.variant == "factorised_dot" and sizes["heads"] < 2:
            raise ValueError("heads=1: factorised_dot splits its heads between space and time; give 2 or more")
        for name in ("height", "width"):
            if getattr(self, name) % self.patch:
                raise ValueError(f"{name}={getattr(self, name)}: must be a multiple of patch={self.patch}")
        if self.input != "rgb" and (self.frames_per_chunk < 2 or self.embedding == "uniform"):
            raise ValueError(f"input={self.input}: needs frames_per_chunk of 2 or more, and embedding tubelet")
        return self

    def sizes(self) -> dict[str, int]:
        """Return dim, heads and layers."""
        own = {"dim": self.dim, "heads": self.heads, "layers": self.layers}
        return SIZES[self.size] | {name: value for name, value in own.items() if value is not None}

    def without_weights(self) -> VivitRecipe:
        """See `BaseModelRecipe`."""
        return self.model_copy(update={"image_vit": None})

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`; `image_vit` names an image model whose weights the ViViT starts from."""
        sizes = self.sizes()
        tubelets = Tubelets(
            height=self.height,
            width=self.width,
            frames=self.frames_per_chunk,
            patch=self.patch,
            dim=sizes["dim"],
            embedding=self.embedding,
            input_kind=self.input,
            channels=self.channels,
        )
        arguments: dict[str, Any] = {
            "labels": labels,
            "chunks": self.chunks,
            "mlp_ratio": self.mlp_ratio,
            "drop_path": self.drop_path,
            "dropout": self.dropout,
            **sizes,
        }
        pool = self.pool or "class"
        model: WindowViViT | FactorisedEncoderViViT
        if self.variant == "joint":
            model = WindowViViT(tubelets, JointHead(grid=tubelets.grid, pool=pool, **arguments))
        elif self.variant == "factorised_encoder":
            model = FactorisedEncoderViViT(tubelets, pool=pool, temporal_layers=self.temporal_layers or 4, **arguments)
        elif self.variant == "factorised_self":
            model = WindowViViT(tubelets, FactorisedSelfHead(grid=tubelets.grid, **arguments))
        else:
            model = WindowViViT(tubelets, FactorisedDotHead(grid=tubelets.grid, **arguments))
        if self.image_vit is not None:
            model.start_from_image(ImageVit.open(self.image_vit), self.inflation)
        return model
