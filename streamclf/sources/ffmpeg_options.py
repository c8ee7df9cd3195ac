"""Hold the options of FFmpeg's demuxers for network streams."""

from __future__ import annotations

import av

RTSP_OPTIONS = {
    # With the default probing the first frame takes a second, and fflags=nobuffer would lose the first key frame.
    "probesize": "32",
    "analyzeduration": "0",
    "fpsprobesize": "0",
    "allowed_media_types": "video",
    "max_delay": "200000",  # microseconds to wait for a reordered UDP packet
    "buffer_size": "2097152",  # a key frame's burst of UDP packets must fit into the socket
    "protocol_whitelist": "rtsp,rtp,srtp,udp,tcp,crypto",
}
TRANSPORTS = {
    # A camera drops packets over TCP, too. FFmpeg detects gaps only with a reorder queue, of 2 packets at least.
    "tcp": {"rtsp_transport": "tcp", "reorder_queue_size": "2"},
    "udp": {"rtsp_transport": "udp"},
}
MULTICAST = "+udp_multicast"
"""Added to the configured transport if a server offers only multicast, which our own client does not support."""
SCRIPTS = frozenset({"concat", "concatf", "dash", "imf", "rtsp", "sap", "sdp"})
"""Formats that lead to other sources, without the checks that playlists get."""
HTTP_OPTIONS = {
    "format_whitelist": ",".join(sorted(av.formats_available - SCRIPTS)),
    "analyzeduration": "500000",
    # HLS: content delivery networks name segments as they like. The list of protocols is what protects files.
    "allowed_extensions": "ALL",
    "allowed_segment_extensions": "ALL",
    "extension_picky": "0",
    "http_multiple": "0",  # request a segment when it is read: the log line of the request marks its begin
}
