"""HTTP without the CRM: authentication, preconditions, bodies, responses, problems, OpenAPI."""
