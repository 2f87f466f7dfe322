from .averaging import Averaged, average_frames
from .coil_map import Rotated, ScanMap, rotated_map, scan_map
from .silicon import LatticeMap, lattice_map
from .spots import Spots, find_spots

__all__ = [
    "Averaged",
    "LatticeMap",
    "Rotated",
    "ScanMap",
    "Spots",
    "average_frames",
    "find_spots",
    "lattice_map",
    "rotated_map",
    "scan_map",
]
