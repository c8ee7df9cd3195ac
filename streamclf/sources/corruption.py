"""Which pictures are not what the camera sent, and when that is over again. Pure: no I/O, no clock."""

from __future__ import annotations

REFRESHED_AFTER = 300
"""Pictures without new damage after which all of the picture has been sent again also by a camera that never sends a
key frame but refreshes it bit by bit: ten seconds and more at any usual rate."""


class DamageTracker:
    """Follows damage through one decoder.

    A picture is *broken* when its own data was lost, marked as damaged or could not be decoded. It is *corrupt* when it
    is broken, or predicted from a broken one: since the last whole key frame something was broken. A decoder goes on
    predicting, and says nothing, so that the smear of one lost packet lives until the next key frame.

    The two are told apart because they are used differently: corrupt frames are classified and counted into their
    window; only a run of broken ones ends a segment (`streamclf.windows.sampling.ChunkSampler`), or a link that loses a
    packet now and then would never complete a window.
    """

    def __init__(self) -> None:
        self.pending = False
        """Whether something was amiss since the last picture."""
        self._smeared = False
        self._whole = 0

    @property
    def smeared(self) -> bool:
        """Whether the last picture was corrupt, and one that is predicted from it would be."""
        return self._smeared

    def note(self) -> None:
        """Data on its way to the next picture is missing, marked as damaged, or could not be decoded."""
        self.pending = True

    def picture(self, *, is_key: bool, is_corrupt: bool) -> tuple[bool, bool]:
        """Take the next picture, as its decoder describes it; whether it is (corrupt, broken)."""
        broken = self.pending or is_corrupt
        self.pending = False
        if broken:
            self._smeared, self._whole = True, 0
        else:
            self._whole += 1
            if is_key or self._whole >= REFRESHED_AFTER:
                self._smeared = False
        return self._smeared, broken
