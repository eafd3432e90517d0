"""How the database of approach 2 becomes what the models say: Alembic's environment and its revisions."""
