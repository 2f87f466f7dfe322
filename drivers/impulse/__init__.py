"""DENSsolutions heating holders, through Impulse."""
