"""Read one stream in a process of its own and put its chunks into a shared-memory ring."""
