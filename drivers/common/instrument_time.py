"""Instrument time on the experiment clock, without the jitter of receiving it."""

from __future__ import annotations


class InstrumentTime:
    """Map an instrument's own running time to our clock by the least delay seen.

    A reading cannot arrive before it was taken, so the smallest difference between reception and
    instrument time is the nearest to the truth: what a busy event loop or network adds never
    enters. The minimum is forgotten slowly, so that two clocks which drift apart stay mapped.

    Parameters
    ----------
    forget : float
        Seconds by which the minimum rises per second of instrument time; more than the clocks'
        relative drift (crystals: under 1e-4).
    """

    def __init__(self, forget: float = 1e-4) -> None:
        self._forget = forget
        self._offset_ns: float | None = None
        self._last_instrument_s = 0.0
        self._last_ns = 0

    def stamp_ns(self, instrument_s: float, received_ns: int) -> int:
        """Moment of a reading on our clock.

        Parameters
        ----------
        instrument_s : float
            The instrument's time of the reading in seconds; where it runs backwards the
            instrument was restarted, and the mapping begins anew.
        received_ns : int
            When it arrived, on our clock.

        Returns
        -------
        int
            Nanoseconds; later than the stamp before, and not after `received_ns` unless that
            runs backwards.
        """
        delay_ns = received_ns - instrument_s * 1e9
        elapsed_s = instrument_s - self._last_instrument_s
        if self._offset_ns is None or elapsed_s < 0:
            self._offset_ns = delay_ns
        else:
            self._offset_ns = min(self._offset_ns + self._forget * elapsed_s * 1e9, delay_ns)
        self._last_instrument_s = instrument_s
        # Float nanoseconds since 1970 resolve 0.25 us: enough, and cut off at the reception.
        t_ns = min(round(self._offset_ns + instrument_s * 1e9), received_ns)
        self._last_ns = max(t_ns, self._last_ns + 1)
        return self._last_ns
