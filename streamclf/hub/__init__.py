"""Journal each event, then publish it, and replay what a subscriber missed."""
