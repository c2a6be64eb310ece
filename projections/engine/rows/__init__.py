"""From row changes to rows: folding, statements, COPY, and tables in memory. It decides rows."""
