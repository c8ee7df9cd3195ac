"""Write the model card of a bundle with labels in words."""

from __future__ import annotations

from training.data.shape import Shape
from training.importing.words.config import LvtConfig, WordsConfig
from training.importing.words.model import WordsModel
from training.importing.words.prompts import Prompts

_MAX_LISTED = 50
_COMPARED = (
    ". The engine applies a softmax to the logits, so the probabilities of all labels sum to 1: one label is always "
    "likely, also if none of them fits. Give a label for everything else."
)
_INDEPENDENT = (
    ". The engine applies a sigmoid to each logit, as in the model's training: labels are independent, and none, one "
    "or several may be present. These probabilities are often small, also where a label fits. Compare films with and "
    "without it, and set `on` of its action between them; 0.5 applies until then."
)


def write_card(
    config: WordsConfig,
    prompts: Prompts,
    words: WordsModel,
    shape: Shape,
    notes: tuple[str, ...],
    *,
    folder: str,
    independent: bool = False,
) -> str:
    """Return the card's text: labels, templates, how the probabilities are made, and the differences to the folder."""
    labels = [f"- {label}" for label in prompts.labels[:_MAX_LISTED]]
    if len(prompts.labels) > _MAX_LISTED:
        labels.append(f"- and {len(prompts.labels) - _MAX_LISTED} more, see spec.json")
    if isinstance(config.vision, LvtConfig):
        pooling = "The spatial layers encode each frame; the temporal and pooling layers read the window."
    else:
        pooling = (
            "The image tower encodes each frame; the head averages the normalised embeddings of the window's frames, "
            "so the order of the frames has no effect."
        )
    return "\n".join(
        [
            f"# {config.model_type} with labels in words",
            "",
            f"Imported from the Hugging Face folder {folder!r}. Nobody trained these labels (zero-shot).",
            "",
            "Labels:",
            "",
            *labels,
            "",
            "Templates, whose text embeddings are averaged:",
            "",
            *(f"- {template}" for template in prompts.templates),
            "",
            f"{pooling} A window has {shape.chunks} frames at {shape.fps:g} fps.",
            "",
            f"**Probabilities**: logit = cosine / {words.temperature:.4g}"
            + (f" {words.bias:+.4g}" if words.bias else "")
            + (_INDEPENDENT if independent else _COMPARED),
            *(
                (
                    "This model was trained with a sigmoid for each text. Its own probability of a label is the "
                    "sigmoid of the logit; the engine's softmax only compares the labels, and is another number.",
                )
                if config.model_type.startswith("siglip") and not independent
                else ()
            ),
            "",
            *(f"- {note}" for note in notes),
            "",
            "**Data and metrics**: see the model's own card. The import measures nothing: try the labels on your own "
            "films, and compare several wordings.",
            "",
            "**Licence**: the licence of the weights; see the model's own card.",
            "",
        ]
    )
