"""What moves, tilts and blurs the image: errors of stage and membrane, deflectors, focus."""
