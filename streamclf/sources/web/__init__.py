"""Read from web servers with limits: FFmpeg gets its data from a relay in this process, not from the network."""
