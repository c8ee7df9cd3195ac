"""The groups of materials and forms, by name, in the order in which they were fixed."""

from __future__ import annotations

from typing import Final

from support.unseen.fifth_forms import FIFTH_FORMS
from support.unseen.fifth_materials import FIFTH_MATERIALS
from support.unseen.film import Group
from support.unseen.first_forms import FIRST_FORMS
from support.unseen.first_materials import FIRST_MATERIALS
from support.unseen.fourth_forms import FOURTH_FORMS
from support.unseen.fourth_materials import FOURTH_MATERIALS
from support.unseen.second_forms import SECOND_FORMS
from support.unseen.second_materials import SECOND_MATERIALS
from support.unseen.sixth_forms import SIXTH_FORMS
from support.unseen.sixth_materials import SIXTH_MATERIALS
from support.unseen.third_forms import THIRD_FORMS
from support.unseen.third_materials import THIRD_MATERIALS

GROUPS: Final = {
    group.name: group
    for group in (
        Group(name="first", seed=2026, materials=FIRST_MATERIALS, forms=FIRST_FORMS, covers_per_film=6),
        Group(name="second", seed=2027, materials=SECOND_MATERIALS, forms=SECOND_FORMS, covers_per_film=4),
        Group(name="third", seed=2028, materials=THIRD_MATERIALS, forms=THIRD_FORMS, covers_per_film=3),
        Group(name="fourth", seed=2029, materials=FOURTH_MATERIALS, forms=FOURTH_FORMS, covers_per_film=3),
        Group(name="fifth", seed=2030, materials=FIFTH_MATERIALS, forms=FIFTH_FORMS, covers_per_film=3),
        Group(name="sixth", seed=2032, materials=SIXTH_MATERIALS, forms=SIXTH_FORMS, covers_per_film=3),
    )
}
