"""The simulated physical world: chip, goniometer, column, specimen."""
