"""Sample frames by media time, group them into chunks and sliding windows, and share them between processes."""
