"""Write the HTML report of classified films: one file without scripts, which needs no other file."""
