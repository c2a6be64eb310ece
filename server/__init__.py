"""The program `annals`: command line, processes and PostgreSQL. No other package imports it."""
