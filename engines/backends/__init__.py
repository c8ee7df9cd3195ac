"""Run a bundle's graphs with one inference library each, behind the same protocol."""
