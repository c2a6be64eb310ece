"""Commands' work on the database itself, without HTTP."""
