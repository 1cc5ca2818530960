"""Stands where PostgreSQL's driver would be found: most installations have none."""
raise ImportError("requirements-postgres.txt is not installed")
