"""Jobs on projections (rebuild, rollback, retry): requests of the API, and their queue."""
