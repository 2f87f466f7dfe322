"""Bonds, cells and tetrahedra of a lattice of atoms, and what they say of each atom."""
