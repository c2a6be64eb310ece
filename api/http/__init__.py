"""HTTP without the CRM: authentication, conditions, bodies, problem documents, OpenAPI."""
