"""Decode packets exactly or fast, and switch between the two at a key frame without a gap or damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import av.error
from av.packet import Packet

from streamclf.sources.decoding import EXACT, Decoding, WantedDecoding, fast_options
from streamclf.sources.hw_decode import uses_hardware
from streamclf.sources.picture_limits import picture_size

MAX_OVERLAP: Final = 40
"""Packets that two decoders get at most. Reordering holds back at most 16 frames, and each thread one more."""
MAX_PIXELS: Final = 4096 * 2304
"""Two decoders of a larger picture may exceed the memory of a capture process, so it keeps the one that it has."""


class DecodedPicture(NamedTuple):
    """A PyAV frame, how it was decoded, and by which factor the decoder has reduced it along each axis."""

    frame: Any
    decoding: Decoding
    reduction: int


class SwitchingDecoder:
    """The decoder of one video.

    FFmpeg reads options only when a decoder opens, so the other way to decode needs another decoder. That one begins at
    a key frame. Frames from before the key frame may still come out of the first decoder, also leading pictures, which
    the other one cannot decode. So both get the packets until the first one returns a frame that the other one has
    returned, too. For most cameras, that is the key frame itself.
    """

    def __init__(self, context: Any, options: Mapping[str, str], make: Callable[[], Any], codec: str) -> None:
        """Decode with `context`, PyAV's `CodecContext` of `codec` (FFmpeg's name), which is not open yet.

        `options` are those of each decoder. `make` returns another decoder of the same video.
        """
        context.options = dict(options)
        self.context = context
        """The decoder whose frames are returned."""
        self._common, self._make = options, make
        self._codec = codec
        self._may_switch = True
        self._wanted = EXACT
        self._used: Mapping[str, str] = {}
        """The options of the decoder whose frames are returned, beside the common ones."""
        fast = fast_options(codec)
        self._reduction = 1 if fast is None else fast.reduction
        self._began = False
        self._next: Any = None
        self._next_used: Mapping[str, str] = {}
        self._overlap = 0
        self._held: list[Any] = []
        self._last_pts: int | None = None

    @property
    def decoding(self) -> Decoding:
        """How the frames are decoded that are returned now."""
        return "fast" if self._used else "exact"

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """Decode as `wanted` says: at once before the first packet, else from the next key frame on.

        A device, and a codec without a fast way, always decode exactly.
        """
        if uses_hardware(self.context):
            return
        self._wanted = wanted
        if not self._began:
            self._used = self._options()
            self.context.options = {**self._common, **self._used}

    def decode(self, packet: Packet[Any], *, key: bool) -> list[DecodedPicture]:
        """Return the frames that `packet` gives, each with the way it was decoded. Raises PyAV's errors.

        `key`: decoding can begin at this packet. A packet without data returns all frames that are left.
        """
        self._began = True
        if self._next is None and key:
            self._begin_switch(packet)
        if self._next is None:
            return self._returned(self.context.decode(packet))
        return self._decode_twice(packet)

    def _options(self) -> dict[str, str]:
        aspect = self.context.sample_aspect_ratio
        # By the pixels' shape, consumers may need more columns than a reduced picture has.
        is_square = not aspect or aspect == 1
        return self._wanted.options(self._codec, picture_size(self.context) if is_square else (0, 0))

    def _begin_switch(self, key: Packet[Any]) -> None:
        # The parameter sets of a container may change within the film. Only the decoder that is there has got them.
        self._may_switch = self._may_switch and not key.has_sidedata("new_extradata")
        options = self._options()
        if options == self._used:
            return
        width, height = picture_size(self.context)
        # Without time stamps, the frames of two decoders cannot be matched.
        if not self._may_switch or key.pts is None or width * height > MAX_PIXELS:
            return
        self._next = self._make()
        self._next.options = {**self._common, **options}
        # The size may have changed since the beginning. FFmpeg takes a much lower JPEG picture for one of two fields.
        self._next.width, self._next.height = width, height
        # The depth of reordering that the decoder has found; the next one would find it out with disordered frames.
        self._next.reorder_depth = self.context.reorder_depth
        self._next_used, self._overlap, self._held = options, 0, []
        self._first_pts = key.pts

    def _decode_twice(self, packet: Packet[Any]) -> list[DecodedPicture]:
        """Return the first decoder's frames until it returns one that the other decoder has returned, too."""
        try:
            self._held += [frame for frame in self._next.decode(packet) if self._is_new(frame)]
            self._overlap += 1
        except (av.error.FFmpegError, ValueError):
            self._overlap = MAX_OVERLAP + 1
        if self._overlap > MAX_OVERLAP:
            self._next, self._held = None, []  # the first decoder goes on, and the next key frame is another chance
            return self._returned(self.context.decode(packet))
        frames = list(self.context.decode(packet))
        if not self._held:
            return self._returned(frames)
        begin = self._held[0].pts
        earlier = [frame for frame in frames if frame.pts is not None and frame.pts < begin]
        returned = self._returned(earlier)
        if packet.size and len(earlier) == len(frames):
            return returned
        self._flush()
        self.context, self._used, self._next = self._next, self._next_used, None
        held, self._held = self._held, []
        return returned + self._returned(held)

    def _is_new(self, frame: Any) -> bool:
        """Return whether a frame of the other decoder follows the key frame, and all frames returned so far."""
        if frame.pts is None or frame.pts < self._first_pts:
            return False
        return self._last_pts is None or frame.pts > self._last_pts

    def _returned(self, frames: Any) -> list[DecodedPicture]:
        reduction = self._reduction if self._used else 1
        decoded = [DecodedPicture(frame, self.decoding, reduction) for frame in frames]
        if decoded:
            self._last_pts = decoded[-1].frame.pts
        return decoded

    def _flush(self) -> None:
        """Release the pictures of the first decoder. The one of a container stays as long as the container."""
        self.context.flush_buffers()
