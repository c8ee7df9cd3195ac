"""RTSP without FFmpeg's demuxer: a picture is decoded when its last packet is there, not when the next one begins.

| module | room for |
|---|---|
| `message`, `framing` | RTSP's requests and answers; cutting them and the interleaved packets out of one TCP stream |
| `auth`, `sdp`, `address` | who we are; what a server offers; where it is |
| `rtp`, `reorder`, `rtcp` | packets, their order, and the reports about them |
| `nal`, `units` | packets -> NAL units -> access units, one a picture |
| `media` | all of that for one track; pure: bytes and a clock in, access units out |
| `connection`, `client`, `session` | sockets with deadlines; requests and answers; from a URL to packets |
| `decoder`, `reader` | access units -> pictures; the whole, as `streamclf.sources.network` reads it |

The server is nobody that we trust: whatever it sends is bounded in size and number, and every wait has a deadline.
"""
