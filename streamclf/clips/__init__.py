"""Save actions as films and pictures: the folder of clips, its films, stills and retention."""
