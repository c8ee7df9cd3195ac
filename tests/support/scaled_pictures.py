"""Scale pictures by the tables of `streamclf.sources.card_plan` in NumPy: what the kernel `scale_picture` computes.

The doubles of a GPU use it, because an interpreted kernel is slow. A test holds it to the kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def scale_by_plan(
    words: npt.NDArray[np.int32], luma: Bytes, chroma: Bytes, pitches: tuple[int, int], out: Bytes
) -> None:
    """Fill `out` from the planes, given as bytes from their addresses on; `out` are the bytes of the result."""
    columns, rows, column_step, row_step = words[:4].tolist()
    taps, places = words[4:8].tolist(), words[8:13] // 4
    sample_bytes, sample_shift, row_shift, rounding, each_pixel = words[14:19].tolist()
    counts = (columns, rows, columns, rows)
    tables = [
        words[place : place + n * (tap + 1)].reshape(n, tap + 1)
        for place, n, tap in zip(places, counts, taps, strict=False)
    ]
    mask = words.view(np.uint8)[words[13] : words[13] + rows * columns].reshape(rows, columns)
    kind = np.uint8 if sample_bytes == 1 else np.uint16

    def plane(data: Bytes, pitch: int) -> npt.NDArray[Any]:
        whole = data[: len(data) // pitch * pitch].reshape(-1, pitch)
        return (whole.view(kind) >> sample_shift).astype(np.int64)

    def filtered(samples: npt.NDArray[Any], along_x: npt.NDArray[Any], along_y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        first, weights = along_x[:, 0], along_x[:, 1:]
        wide = sum(samples[:, first + j] * weights[:, j] for j in range(weights.shape[1]))
        wide = np.minimum(wide >> row_shift, 32767)
        first, weights = along_y[:, 0], along_y[:, 1:]
        return sum(wide[first + j] * weights[:, j, None] for j in range(weights.shape[1])) + rounding

    colours = plane(chroma, pitches[1])
    y = filtered(plane(luma, pitches[0]), tables[0], tables[1])
    u, v = (filtered(colours[:, i::2], tables[2], tables[3]) for i in (0, 1))
    if each_pixel:
        luma_offset, luma_factor, v_red, v_green, u_green, u_blue = words[21:27].tolist()
        y = ((y >> 10) - luma_offset) * luma_factor + (1 << 21)
        u, v = ((value - (128 << 19)) >> 10 for value in (u, v))
        rgb = [value.astype(np.int32) >> 22 for value in (y + v * v_red, y + v * v_green + u * u_green, y + u * u_blue)]
    else:
        factor, offset = words[19:21].tolist()
        red, blue, green_u, green_v = words[places[4] : places[4] + 1024].reshape(4, 256).astype(np.int64)
        y, u, v = y >> 19, np.clip(u >> 19, 0, 255), np.clip(v >> 19, 0, 255)
        rgb = [(factor * (y + k) + offset) >> 16 for k in (red[v], green_u[u] + green_v[v], blue[u])]
    pixels = np.where(mask[..., None] != 0, 0, np.clip(np.stack(rgb, -1), 0, 255)).astype(np.uint8)
    at = np.arange(rows)[:, None, None] * row_step + np.arange(columns)[:, None] * column_step + np.arange(3)
    out[at] = pixels
