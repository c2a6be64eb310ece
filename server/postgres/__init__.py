"""The embedded PostgreSQL server, roles, backup, restore and upgrade."""
