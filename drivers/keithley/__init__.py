"""A heating chip on a Keithley 2400 or 2450 source-measure unit, regulated here by R(T)."""
