"""Direct work of the commands on the database, without HTTP."""
