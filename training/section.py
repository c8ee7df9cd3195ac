"""The base class of all sections of a recipe."""

from streamclf.config import section


class Section(section.Section):
    """A part of a recipe: frozen, and unknown keys and numbers without a limit are refused."""
