"""What is measured of a microscope's scan."""
