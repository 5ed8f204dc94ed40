"""The books in PostgreSQL: one store for each idea."""
