"""Work on the database of this machine that does not go through HTTP."""
