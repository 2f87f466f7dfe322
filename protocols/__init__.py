"""What programs agree on: recipe, rig, streams, control, file layout, units and vendor wires."""
