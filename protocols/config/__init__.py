"""What people write: recipes, rigs, analysis pipelines, rules of the supervisor, calibrations."""
