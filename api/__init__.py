"""HTTP: routes, access, errors, settings, and the processes that run it all."""
