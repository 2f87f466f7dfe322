"""The model of a tilt series of atoms, its likelihood, and the steps that make it likelier."""
