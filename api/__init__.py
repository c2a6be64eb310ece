"""The HTTP API: routes, their dependencies, realtime streams, exports, and HTTP itself."""
