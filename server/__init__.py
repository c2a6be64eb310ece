"""The program `annals`: its command line, its processes, its PostgreSQL. Nothing imports it."""
