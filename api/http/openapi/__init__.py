"""The OpenAPI description of the API: examples, models, responses and the document itself."""
