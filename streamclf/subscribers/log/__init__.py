"""Write events to SQLite or JSON lines, each exactly once, and query them."""
