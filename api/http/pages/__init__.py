"""The pages of the API for people: its documentation."""
