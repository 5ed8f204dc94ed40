"""The domain of prepaid lots, and its books in PostgreSQL."""
