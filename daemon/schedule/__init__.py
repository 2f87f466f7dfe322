"""The plan of a recipe, the dose ledger, the states of the engine. Pure."""
