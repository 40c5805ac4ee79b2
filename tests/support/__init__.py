"""What test files share: small models, recipes, and where things lie in the repository."""
