"""Crop PyAV frames without copying their pixels.

FFmpeg's `crop` filter only moves the pointers of a frame: 2 us for a picture of any size. The scaler then reads the
part alone, so a small region costs less than the whole picture, and keeps the camera's own detail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamclf.sources.picture_part import PicturePart

if TYPE_CHECKING:
    import av
    import av.filter

MAX_GRAPHS: Final = 32
"""A graph crops one part of pictures of one size. A stream has one for each of its regions, at most 16."""
_Key = tuple[str, int, int, int, int, int, int, int, int]


class FrameCropper:
    """Crop the frames of one source, with one graph of filters for each part."""

    def __init__(self) -> None:
        self._graphs: dict[_Key, av.filter.Graph] = {}

    def crop(self, frame: av.VideoFrame, part: PicturePart) -> av.VideoFrame:
        """Return a frame that refers to a part of the pixels of `frame`."""
        key = (
            frame.format.name,
            int(frame.colorspace),
            int(frame.color_range),
            frame.width,
            frame.height,
            part.x,
            part.y,
            part.columns,
            part.rows,
        )
        graph = self._graphs.get(key)
        if graph is None:
            if len(self._graphs) >= MAX_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            graph = self._graphs[key] = _make_graph(frame, part)
        graph.vpush(frame)
        return graph.vpull()


def _make_graph(frame: av.VideoFrame, part: PicturePart) -> av.filter.Graph:
    import av.filter

    graph = av.filter.Graph()
    if hasattr(graph, "threads"):  # otherwise FFmpeg starts a thread per core, although this filter uses none
        graph.threads = 1
    buffer = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base="1/1",
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    crop = graph.add("crop", f"{part.columns}:{part.rows}:{part.x}:{part.y}:exact=1")
    graph.link_nodes(buffer, crop, graph.add("buffersink")).configure()
    return graph
