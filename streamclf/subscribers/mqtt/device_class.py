"""Choose the device class and the icon with which Home Assistant shows an action, by the words of its label."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

DEFAULT_ICON: Final = "mdi:motion-play-outline"
_WORD = re.compile(r"[^\W\d_]+")

_RULES: Final = (
    ("covered cover tamper tampered tampering obscured blocked", "tamper", "mdi:camera-off"),
    ("defocused blur blurred unfocused", "tamper", "mdi:blur"),
    ("moved turned displaced", "tamper", "mdi:axis-arrow"),
    ("noise frozen corrupt broken damaged", "problem", "mdi:image-broken-variant"),
    ("shaking shake vibration vibrating", "vibration", "mdi:vibrate"),
    ("flashing flash flicker flickering", "light", "mdi:flash"),
    ("unknown other", None, "mdi:help-circle-outline"),
    ("smoke", "smoke", "mdi:smoke"),
    ("fire flame flames burning", "safety", "mdi:fire"),
    ("fight fighting violence violent assault punch punching kick kicking", "safety", "mdi:boxing-glove"),
    ("gun pistol rifle weapon shooting", "safety", "mdi:pistol"),
    ("knife stabbing", "safety", "mdi:knife"),
    ("robbery burglary theft stealing shoplifting vandalism intrusion", "safety", "mdi:shield-home"),
    ("fall falling fallen accident collision crash explosion danger", "safety", "mdi:alert"),
    ("cry crying scream screaming bark barking alarm siren glass sound shout shouting", "sound", "mdi:volume-high"),
    ("leak leaking flood flooding", "moisture", "mdi:water"),
    ("person persons people human man woman child visitor intruder face crowd", "occupancy", "mdi:account"),
    ("car vehicle truck van bus", "occupancy", "mdi:car"),
    ("dog cat animal pet bird", "occupancy", "mdi:paw"),
    ("package parcel delivery", "occupancy", "mdi:package-variant"),
    ("open opened opening", "opening", "mdi:door-open"),
    ("run running jogging sprint", "motion", "mdi:run"),
    ("walk walking", "motion", "mdi:walk"),
    ("motion movement moving climb climbing jump jumping crawl crawling", "motion", "mdi:motion-sensor"),
    ("wave waving greet greeting hello", None, "mdi:hand-wave"),
    ("clap clapping", None, "mdi:hand-clap"),
    ("gesture swipe swiping pointing thumb", None, "mdi:gesture"),
    ("sleep sleeping", None, "mdi:sleep"),
)
"""Words, device class of a `binary_sensor`, and icon. The first rule with a word of the label applies.

https://www.home-assistant.io/integrations/binary_sensor/#device-class
"""


def device_class_of(label: str) -> tuple[str | None, str]:
    """Return the device class, None for none, and the icon of an action."""
    words = set(_WORD.findall(unicodedata.normalize("NFKC", label).casefold()))
    for known, device_class, icon in _RULES:
        if not words.isdisjoint(known.split()):
            return device_class, icon
    return None, DEFAULT_ICON
