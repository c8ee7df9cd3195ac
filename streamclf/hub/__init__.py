"""Journal each event, then publish it, and replay the events that a subscriber missed."""
