"""Classify packets of video by their first bytes: is another picture (frame) predicted from them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

HEAD_BYTES: Final = 4096
"""The parser searches these bytes for a picture's first slice; without one, it counts the packet as needed."""
MAX_NALS: Final = 64
START: Final = b"\0\0\1"


class PacketKind(NamedTuple):
    """The kind of a packet. `key`: decoding can begin here. `disposable`: no other picture is predicted from it."""

    key: bool
    disposable: bool


NEEDED: Final = PacketKind(key=False, disposable=False)
KEY: Final = PacketKind(key=True, disposable=False)
DISPOSABLE: Final = PacketKind(key=False, disposable=True)
ALONE: Final = PacketKind(key=True, disposable=True)
"""A picture of a codec that predicts no picture from another one."""

NAL_CODECS: Final = frozenset({"h264", "hevc"})
INTRA_CODECS: Final = frozenset({"mjpeg", "prores", "dnxhd"})
MPEG_CODECS: Final = frozenset({"mpeg1video", "mpeg2video", "mpeg4"})


class PacketClassifier:
    """Classify the packets of one stream.

    H.264: a slice with `nal_ref_idc` 0 is disposable (section 7.4.1). H.265: a sub-layer non-reference picture (table
    7-1) is disposable in the highest temporal sub-layer; in a lower one, pictures of the higher sub-layers may still be
    predicted from it. Leading pictures count as needed, like packets with parameter sets. MPEG-1, 2 and 4: B pictures
    are disposable (ISO 14496-2, section 6.1.3.5). Motion JPEG and other intra codecs: every picture is.
    """

    def __init__(self, codec: str, extradata: bytes | None = None) -> None:
        """Read the packet format from `extradata`, the container's parameter sets. `codec` is FFmpeg's name."""
        self._codec = codec
        self._length_bytes = 0  # bytes of each NAL unit's length; 0: start codes separate the units
        self._top_layer: int | None = None
        if not extradata or codec not in NAL_CODECS:
            return
        if extradata[0] != 1:
            self.classify(extradata)
        elif codec == "h264" and len(extradata) > 4:  # AVCDecoderConfigurationRecord (ISO/IEC 14496-15, section 5.3)
            self._length_bytes = (extradata[4] & 3) + 1
        elif codec == "hevc" and len(extradata) > 22:  # HEVCDecoderConfigurationRecord (section 8.3)
            self._length_bytes = (extradata[21] & 3) + 1
            layers = extradata[21] >> 3 & 7
            self._top_layer = layers - 1 if layers else None

    def classify(self, data: bytes | memoryview) -> PacketKind:
        """Return the kind of the packet `data`."""
        if self._codec in INTRA_CODECS:
            return ALONE
        try:
            if self._codec in NAL_CODECS:
                heads = self._heads(data)
                return self._h264(heads) if self._codec == "h264" else self._h265(heads)
            return _mpeg(self._heads(data), self._codec) if self._codec in MPEG_CODECS else NEEDED
        except IndexError:  # the data ends in the middle of a header
            return NEEDED

    def _heads(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """Iterate over the NAL units, each from its header on."""
        if self._length_bytes:
            at = 0
            for _ in range(MAX_NALS):
                begin = at + self._length_bytes
                if begin >= len(data):
                    return
                yield data[begin : begin + 4]
                at = begin + int.from_bytes(data[at:begin], "big")
            return
        head = bytes(data[:HEAD_BYTES])
        at = head.find(START)
        while at >= 0:
            yield head[at + 3 : at + 7]
            at = head.find(START, at + 3)

    def _h264(self, heads: Iterator[bytes | memoryview]) -> PacketKind:
        is_alone = True
        for head in heads:
            kind = head[0] & 31
            if kind == 5:
                return KEY
            if kind == 1:
                return DISPOSABLE if is_alone and not head[0] & 0x60 else NEEDED
            # SEI, access unit delimiter, filler, or a prefix for decoders of several layers.
            is_alone = is_alone and kind in (6, 9, 12, 14)
        return NEEDED

    def _h265(self, heads: Iterator[bytes | memoryview]) -> PacketKind:
        is_alone = True
        for head in heads:
            kind = head[0] >> 1 & 63
            if 16 <= kind <= 21:
                return KEY
            if kind < 32:
                is_only_layer = not (head[0] & 1 or head[1] >> 3)
                is_top = self._top_layer is not None and (head[1] & 7) - 1 == self._top_layer
                return DISPOSABLE if is_alone and is_only_layer and is_top and kind in (0, 2, 4) else NEEDED
            if kind == 33:  # its third byte holds sps_max_sub_layers_minus1
                self._top_layer = max(self._top_layer or 0, head[2] >> 1 & 7)
            is_alone = is_alone and kind in (35, 38, 39)
        return NEEDED


def _mpeg(heads: Iterator[bytes | memoryview], codec: str) -> PacketKind:
    """Return the kind of a packet of MPEG-1, 2 or 4: that of its first picture, if nothing else precedes it.

    A packet of MPEG-4 that holds several pictures begins with one that others are predicted from.
    """
    for head in heads:
        if codec == "mpeg4" and head[0] == 0xB6:  # vop_coding_type is the next two bits
            return (KEY, NEEDED, DISPOSABLE, NEEDED)[head[1] >> 6]
        if codec != "mpeg4" and head[0] == 0x00:  # picture_coding_type follows temporal_reference, of ten bits
            return {1: KEY, 3: DISPOSABLE}.get(head[2] >> 3 & 7, NEEDED)
        return NEEDED
    return NEEDED
