"""Track which frames are damaged, and until when. Pure: no I/O, no clock."""

from __future__ import annotations

REFRESH_FRAMES = 300
"""A camera that sends no key frames refreshes the image part by part. After this many frames without new damage, ten
seconds or more at any usual rate, it has sent every part again."""


class DamageTracker:
    """Follow damage through one decoder.

    A frame is *broken* when its own data was lost, marked as damaged or could not be decoded. A frame is *corrupt* when
    it is broken, or predicted from a broken one: when a frame was broken since the last intact key frame. A decoder
    continues to predict and reports no error, so the damage of one lost packet stays until the next key frame.

    The distinction matters later: corrupt frames are classified and counted in their window. Only a run of broken
    frames ends a segment (`streamclf.windows.sampling.ChunkSampler`). Otherwise a link that loses a packet now and then
    would never complete a window.
    """

    def __init__(self) -> None:
        self.pending = False
        """Whether data was damaged since the last frame."""
        self._corrupt = False
        self._intact_frames = 0

    @property
    def corrupt(self) -> bool:
        """Whether the last frame was corrupt; a frame that is predicted from it would be corrupt, too."""
        return self._corrupt

    def add_damage(self) -> None:
        """Record that data of the next frame is missing, marked as damaged, or could not be decoded."""
        self.pending = True

    def add_frame(self, *, is_key: bool, is_corrupt: bool) -> tuple[bool, bool]:
        """Add the next frame, as its decoder describes it. Returns whether it is (corrupt, broken)."""
        broken = self.pending or is_corrupt
        self.pending = False
        if broken:
            self._corrupt, self._intact_frames = True, 0
        else:
            self._intact_frames += 1
            if is_key or self._intact_frames >= REFRESH_FRAMES:
                self._corrupt = False
        return self._corrupt, broken
