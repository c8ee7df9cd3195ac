"""Read labelled clips and turn them into batches of windows."""
