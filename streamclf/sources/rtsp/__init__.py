"""Read RTSP without FFmpeg's demuxer: a frame is decoded once its last packet arrives, not when the next frame begins.

| module | content |
|---|---|
| `message`, `framing` | RTSP requests and responses; separating them from the interleaved packets of one TCP stream |
| `auth`, `sdp`, `address` | authentication; the server's description of its media; URLs |
| `rtp`, `reorder`, `rtcp` | packets, their order, and the reports about them |
| `nal`, `access_units` | packets -> NAL units -> access units, one for each frame |
| `media` | the previous two rows for one track; pure: bytes and a clock in, access units out |
| `connection`, `client`, `session` | sockets with deadlines; requests and responses; from a URL to packets |
| `decoder`, `reader` | access units -> frames; the whole client, as `streamclf.sources.network` uses it |
| `fallback` | streams that this client does not support, which FFmpeg reads instead |

The client does not trust the server: everything received is bounded in size and number, and every wait has a deadline.
"""
