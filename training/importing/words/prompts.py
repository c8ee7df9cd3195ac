"""Check the labels and templates that a user gives, and make the texts of each label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engines.bundle import MAX_LABEL_CHARS
from training.errors import RecipeError

MAX_LABELS: Final = 1000
MAX_TEMPLATES: Final = 100
MAX_TEMPLATE_CHARS: Final = 1000
PLACE: Final = "{}"
"""The place of the label in a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Labels, and the templates that turn each label into texts."""

    labels: tuple[str, ...]
    templates: tuple[str, ...]

    def texts(self, label: str) -> list[str]:
        """Return the label's text in each template."""
        return [template.replace(PLACE, label) for template in self.templates]


def check_prompts(labels: Sequence[str], templates: Sequence[str] = (), *, least: int = 2) -> Prompts:
    """Return labels, at least `least`, and templates; without templates the text of a label is the label.

    Raises `RecipeError`.
    """
    names = tuple(" ".join(label.split()) for label in labels)
    if not least <= len(names) <= MAX_LABELS:
        raise RecipeError(
            f"--labels: {len(names)} given, must be {least} to {MAX_LABELS}; to detect one thing, add a label for "
            'everything else, such as "an empty room"'
        )
    for name in names:
        if not 1 <= len(name) <= MAX_LABEL_CHARS:
            raise RecipeError(f"--labels: {name[:80]!r} has {len(name)} characters, must have 1 to {MAX_LABEL_CHARS}")
        if not name.isprintable():
            raise RecipeError(f"--labels: {name[:80]!r} has control characters; remove them")
    _refuse_repeated("--labels", names)
    forms = tuple(" ".join(template.split()) for template in templates) or (PLACE,)
    if len(forms) > MAX_TEMPLATES:
        raise RecipeError(f"--template: {len(forms)} given, at most {MAX_TEMPLATES}")
    for form in forms:
        if form.count(PLACE) != 1 or len(form) > MAX_TEMPLATE_CHARS or not form.isprintable():
            raise RecipeError(
                f"--template {form[:80]!r}: must contain {PLACE} once, for the label, and at most {MAX_TEMPLATE_CHARS} "
                'printable characters, such as "a photo of {}"'
            )
    _refuse_repeated("--template", forms)
    return Prompts(labels=names, templates=forms)


def _refuse_repeated(option: str, texts: tuple[str, ...]) -> None:
    if len(set(texts)) < len(texts):
        repeated = next(text for text in texts if texts.count(text) > 1)
        raise RecipeError(f"{option}: {repeated[:80]!r} is given more than once; give each once")
