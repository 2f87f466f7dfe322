from .plots import model_distance_nm, plot_growth, plot_model, plot_tuning
from .tables import (
    export_table,
    neck_rows,
    tuning_of,
    with_known_time,
    write_beside,
    write_shifts,
    write_tuning,
)

__all__ = [
    "export_table",
    "model_distance_nm",
    "neck_rows",
    "plot_growth",
    "plot_model",
    "plot_tuning",
    "tuning_of",
    "with_known_time",
    "write_beside",
    "write_shifts",
    "write_tuning",
]
