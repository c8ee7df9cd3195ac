"""RTSP cameras for the bench: a rendered film, a server, the process that runs it."""
