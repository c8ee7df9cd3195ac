"""Draw predictions on frames, into films and into the terminal."""
