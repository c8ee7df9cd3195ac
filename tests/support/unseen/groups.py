"""The groups of materials and forms, by name, in the order in which they were fixed."""

from __future__ import annotations

from typing import Final

from support.unseen.film import Group
from support.unseen.first_forms import FIRST_FORMS
from support.unseen.first_materials import FIRST_MATERIALS
from support.unseen.fourth_forms import FOURTH_FORMS
from support.unseen.fourth_materials import FOURTH_MATERIALS
from support.unseen.second_forms import SECOND_FORMS
from support.unseen.second_materials import SECOND_MATERIALS
from support.unseen.third_forms import THIRD_FORMS
from support.unseen.third_materials import THIRD_MATERIALS

GROUPS: Final = {
    "first": Group(seed=2026, materials=FIRST_MATERIALS, forms=FIRST_FORMS, covers_per_film=6),
    "second": Group(seed=2027, materials=SECOND_MATERIALS, forms=SECOND_FORMS, covers_per_film=4),
    "third": Group(seed=2028, materials=THIRD_MATERIALS, forms=THIRD_FORMS, covers_per_film=3),
    "fourth": Group(seed=2029, materials=FOURTH_MATERIALS, forms=FOURTH_FORMS, covers_per_film=3),
}
