"""Write H.264 that declares pictures of any size, 16 references and 8 or 14 bits, in a few bytes per picture."""

from __future__ import annotations

START = b"\0\0\0\1"
HIGH_444 = 244
MAIN = 77


class BitWriter:
    """Write fields of bits, and exponential Golomb codes (ITU-T H.264, section 9.1)."""

    def __init__(self) -> None:
        self.bits = ""

    def fixed(self, value: int, count: int) -> BitWriter:
        """Append `value` in `count` bits."""
        self.bits += format(value, f"0{count}b")
        return self

    def golomb(self, *values: int) -> BitWriter:
        """Append unsigned values."""
        for value in values:
            code = format(value + 1, "b")
            self.bits += "0" * (len(code) - 1) + code
        return self

    def nal(self, header: int) -> bytes:
        """Return a NAL unit of these bits, with emulation prevention bytes (section 7.4.1)."""
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        out, zeros = bytearray([header]), 0
        for i in range(0, len(bits), 8):
            byte = int(bits[i : i + 8], 2)
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(out)


def parameter_sets(width: int, height: int, *, references: int = 16, deep: bool = False) -> list[bytes]:
    """Return the SPS and PPS of pictures of this size in pixels. `deep`: 4:4:4 with 14 bits."""
    sps = BitWriter().fixed(HIGH_444 if deep else MAIN, 8).fixed(0, 8).fixed(62, 8).golomb(0)
    if deep:
        sps.golomb(3).fixed(0, 1).golomb(6, 6).fixed(0, 2)
    sps.golomb(0, 2, references).fixed(0, 1).golomb(width // 16 - 1, height // 16 - 1).fixed(0b1100, 4)
    pps = BitWriter().golomb(0, 0).fixed(0, 2).golomb(0, 0, 0).fixed(0, 3).golomb(0, 0, 0).fixed(0, 3)
    return [sps.nal(0x67), pps.nal(0x68)]


def picture(number: int, macroblocks: int = 200) -> bytes:
    """Return the slice of a picture that is a reference; every 64th is a key frame."""
    is_key = number % 64 == 0
    bits = BitWriter().golomb(0, 7, 0).fixed(number % 64 % 16, 4)
    if is_key:
        bits.golomb(number // 64 % 2).fixed(0, 2)
    else:
        bits.fixed(0, 1)
    bits.golomb(0)
    for _ in range(macroblocks):
        bits.golomb(3, 0, 0, 0)
    return bits.nal(0x65 if is_key else 0x61)


def bomb(width: int, height: int, count: int, *, deep: bool = False) -> bytes:
    """Return `count` pictures as a raw H.264 stream."""
    units = parameter_sets(width, height, deep=deep)
    return b"".join(START + unit for unit in [*units, *(picture(i) for i in range(count))])
