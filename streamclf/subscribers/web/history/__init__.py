"""Store actions, their clips, and the changes of the streams' states, for the page and its REST."""
