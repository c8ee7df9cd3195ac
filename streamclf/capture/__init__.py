"""The process of one stream, `python -m streamclf.capture`: a source becomes tokens in a ring, and says how it is."""
