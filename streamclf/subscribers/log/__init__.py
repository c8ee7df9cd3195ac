"""Write events to SQLite or JSON lines, each exactly once; query and export them."""
