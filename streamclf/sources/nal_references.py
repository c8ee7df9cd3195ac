"""What a packet of H.264 or H.265 holds, from its first bytes: a picture that others are predicted from, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

HEAD_BYTES: Final = 4096
"""A picture's first slice begins within these; a packet where it does not is taken for one that is needed."""
MAX_NALS: Final = 64
START: Final = b"\0\0\1"


class PacketKind(NamedTuple):
    """`key`: decoding can begin here. `spare`: a picture that no other one is predicted from, and nothing else."""

    key: bool
    spare: bool


NEEDED: Final = PacketKind(key=False, spare=False)
KEY: Final = PacketKind(key=True, spare=False)
SPARE: Final = PacketKind(key=False, spare=True)


class ReferenceParser:
    """Looks at the packets of one stream.

    H.264: `nal_ref_idc` of a slice is 0 (section 7.4.1). H.265: a sub-layer non-reference picture (table 7-1) in the
    highest temporal sub-layer; in a lower one, pictures of the higher may still be predicted from it. Leading pictures
    are left alone, and so is a packet with parameter sets, which others need.
    """

    def __init__(self, codec: str, extradata: bytes | None = None) -> None:
        """`codec` as FFmpeg calls it. `extradata`: the container's parameter sets; they say how packets are made up."""
        self._look = {"h264": self._h264, "hevc": self._h265}.get(codec)
        self._length_bytes = 0  # of each NAL unit's size; 0: start codes divide them
        self._top_layer: int | None = None
        if not extradata or self._look is None:
            return
        if extradata[0] != 1:
            self.look(extradata)
        elif codec == "h264" and len(extradata) > 4:  # AVCDecoderConfigurationRecord (ISO/IEC 14496-15, section 5.3)
            self._length_bytes = (extradata[4] & 3) + 1
        elif codec == "hevc" and len(extradata) > 22:  # HEVCDecoderConfigurationRecord (section 8.3)
            self._length_bytes = (extradata[21] & 3) + 1
            layers = extradata[21] >> 3 & 7
            self._top_layer = layers - 1 if layers else None

    def look(self, data: bytes | memoryview) -> PacketKind:
        """What the packet `data` holds."""
        if self._look is None:
            return NEEDED
        try:
            return self._look(self._heads(data))
        except IndexError:  # cut off in the middle of a header
            return NEEDED

    def _heads(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """The NAL units, each from its header on."""
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
                return SPARE if is_alone and not head[0] & 0x60 else NEEDED
            # A delimiter, a remark, builder, or a prefix for decoders of several layers.
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
                return SPARE if is_alone and is_only_layer and is_top and kind in (0, 2, 4) else NEEDED
            if kind == 33:  # its third byte has sps_max_sub_layers_minus1
                self._top_layer = max(self._top_layer or 0, head[2] >> 1 & 7)
            is_alone = is_alone and kind in (35, 38, 39)
        return NEEDED
