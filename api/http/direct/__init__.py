"""Routes as compiled plans: what FastAPI finds out for each request is found out once."""
