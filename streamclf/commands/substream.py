"""Estimate the saving of a camera's second, smaller stream (substream), and derive its address from the first one's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from streamclf.commands.probes import Picture

MANY_TIMES: Final = 4
"""Recommend a smaller picture only if this one has more than so many times the pixels of the model's."""
USUAL_LINES: Final = 360
"""Lines of the usual second stream (640x360). Cameras seldom offer a smaller one."""
FIXED_MEGAPIXELS: Final = 0.28
"""Decoding a picture costs as much as this many megapixels, beside its own: 0.46 ms, and 1.63 ms for each megapixel
(docs/development/benchmarks.md, "The cost model, checked")."""
WORTHWHILE_SHARE: Final = 0.75
"""A second stream that costs more than this share of the first one is not worth a change."""

_CAMERA: Final = re.compile(r"(?:rtsp|http)s?://(?!.*\.m3u8)", re.IGNORECASE)
_SECOND_STREAMS: Final = tuple(
    (re.compile(first, re.IGNORECASE), second)
    for first, second in (
        (r"(/streaming/(?:unicast/)?channels/\d+)01(?=[/?]|$)", r"\g<1>02"),  # Hikvision: 101, and 1601 of a recorder
        (r"(/ch\d+/)main(?=/av_stream)", r"\1sub"),  # Hikvision and EZVIZ, older
        (r"([?&]subtype=)0(?!\d)", r"\g<1>1"),  # Dahua, Amcrest, Lorex
        (r"(preview_\d+_)main(?=[/?]|$)", r"\1sub"),  # Reolink
        (r"(/stream)1(?=[/?]|$)", r"\g<1>2"),  # TP-Link Tapo and VIGI
        (r"(/unicast/c\d+/s)0(?=/live)", r"\g<1>1"),  # Uniview
        (r"(/media/video)1(?=[/?]|$)", r"\g<1>2"),  # Uniview
        (r"(/video)main(?=[/?]|$)", r"\1Sub"),  # Foscam
        (r"([&_]stream=)0(?=\.sdp)", r"\g<1>1"),  # XMeye
    )
)
"""Patterns of first streams' addresses, behind the host, and the replacements that name the second stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPicture:
    """The pixels (width, height) of the part of a camera's picture that a model sees, and of the model's picture."""

    part: tuple[int, int]
    model: tuple[int, int]

    @property
    def times(self) -> float:
        """How many pixels of the part become one pixel of the model's picture."""
        return self.part[0] * self.part[1] / (self.model[0] * self.model[1])

    @property
    def shrink(self) -> float:
        """How many times as wide and as high as the model's picture the part is: the smaller of both."""
        return min(self.part[0] / self.model[0], self.part[1] / self.model[1])


def describe_substream(url: str | None, picture: Picture, seen: Sequence[ModelPicture]) -> str | None:
    """Return a sentence that recommends the second stream of the camera at `url`; None if that would not save much.

    `seen` has an entry for each model and region of the stream. The sentence names the address of the second stream if
    `url` has the form of a known vendor. That address holds the password of `url`.
    """
    if url is None or not seen or not _CAMERA.match(url):
        return None
    largest = min(seen, key=lambda each: each.times)
    second = _second_size(picture, min(each.shrink for each in seen))
    share = decoding_share((picture.width, picture.height), second)
    if largest.times <= MANY_TIMES or share > WORTHWHILE_SHARE:
        return None
    part = "the picture" if largest.part == (picture.width, picture.height) else "the part that a model sees"
    address = find_second_stream(url)
    return (
        f"{part} has {largest.times:.0f} times the pixels of the model's ({'x'.join(map(str, largest.model))}); the "
        f"camera's second stream (substream), with {second[0]}x{second[1]} for example, would cost "
        f"{100 * share:.0f} % of the decoding" + (f"; its address is probably {address}" if address else "")
    )


def decoding_share(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the processor time to decode a picture of `second` (width, height), as a share of one of `first`."""

    def cost(size: tuple[int, int]) -> float:
        return FIXED_MEGAPIXELS + size[0] * size[1] / 1e6

    return cost(second) / cost(first)


def find_second_stream(url: str) -> str | None:
    """Return the probable address of the second stream of the camera at `url`; None if its form is not known."""
    host = re.match(r"rtsps?://[^/?#]*", url, re.IGNORECASE)
    if host is None:
        return None
    for pattern, second in _SECOND_STREAMS:
        changed, count = pattern.subn(second, url[host.end() :], count=1)
        if count:
            return host[0] + changed
    return None


def _second_size(picture: Picture, shrink: float) -> tuple[int, int]:
    """Return (width, height) of a usual second stream whose parts are still as large as the models' pictures."""
    factor = max(1.0, min(shrink, min(picture.width, picture.height) / USUAL_LINES))
    return 2 * round(picture.width / factor / 2), 2 * round(picture.height / factor / 2)
