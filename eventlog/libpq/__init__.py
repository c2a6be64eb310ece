"""Statements below psycopg's cursors, by the functions of libpq that psycopg offers.

They serve the few paths on which a cursor takes more time than the statement: batches of the
projections (`batches`), polls of connections that receive hints (`listening`), pages and details
that requests ask for (`rows`), and COPY (`waiting`). Everything else uses psycopg's cursors.
"""
