"""The processes of a running installation and their supervisor."""
