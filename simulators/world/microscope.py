"""One physical world behind all wires: chip, goniometer, column and specimen at one moment.

Each wire works on the part that it needs: `World.heater`, `World.stage`, `World.column` or
`World.scan`. How time enters is said in `present.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ...protocols.config.faults import FaultName
from ...protocols.config.simulated import CuSintering, Replay, SimulatorRig, ZrZrO2
from .atoms.specimens import AtomSpecimen, AtomTruth, OxidisedParticle, SiliconLamella
from .copper import Sintering, Truth
from .heater import Heater
from .illumination import Illumination
from .present import Present
from .replay import Recording
from .scan import ImageTruth, Scan
from .stage import Stage
from .truth_log import TruthLog

_STAGE_FAULTS: frozenset[FaultName] = frozenset(
    {"drift", "slip", "z-sticks", "xy-ignored", "drift-fast"}
)
_COLUMN_FAULTS: frozenset[FaultName] = frozenset(
    {
        "unblank", "valves", "vacuum",
        "shift-clips", "shift-inverted", "shift-forgets", "focus-jumps",
    }
)  # fmt: skip


class World:
    """The simulated microscope.

    Parameters
    ----------
    config : SimulatorRig
        What the rig says about the simulation.
    t_ns : int
        Moment of the beginning: chip at 25 degC, stage at zero, beam blanked at 2 pA.
    truth_log : TruthLog, optional
        Where to record what truly happens.

    Attributes
    ----------
    heater : Heater
    stage : Stage
    column : Illumination
    scan : Scan
    sintering : Sintering or None
        The specimen, if it is the one that sinters.
    recording : Recording or None
        The recorded tilt series, if that is the specimen.
    atoms : AtomSpecimen or None
        The specimen, if it is one of atoms.

    Raises
    ------
    BadInput
        If a recording to replay cannot be read.
    """

    def __init__(self, config: SimulatorRig, t_ns: int, truth_log: TruthLog | None = None) -> None:
        self.config = config
        self.truth_log = truth_log or TruthLog()
        self.sintering: Sintering | None = None
        self.recording: Recording | None = None
        self.atoms: AtomSpecimen | None = None
        imaged = self._specimen(config)
        self._present = Present(config, t_ns, self.truth_log)
        self.heater = Heater(self._present)
        self.stage = Stage(self._present)
        self.column = Illumination(self._present)
        self.scan = Scan(self._present, imaged, config.seed)
        self._faults: frozenset[FaultName] = frozenset()

    def _specimen(self, config: SimulatorRig) -> Sintering | Recording | AtomSpecimen:
        specimen = config.specimen
        if isinstance(specimen, CuSintering):
            self.sintering = Sintering(specimen.particles, config.seed)
            return self.sintering
        if isinstance(specimen, Replay):
            self.recording = Recording(
                Path(specimen.stack), Path(specimen.tilts), specimen.value_offset
            )
            return self.recording
        if isinstance(specimen, ZrZrO2):
            self.atoms = OxidisedParticle(specimen, config.seed)
        else:
            self.atoms = SiliconLamella(specimen)
        return self.atoms

    def advance_to(self, t_ns: int) -> int:
        """Let time pass up to a moment; returns the present, which may be later."""
        return self._present.advance_to(t_ns)

    def inject_faults(
        self, t_ns: int, of: frozenset[FaultName], on: Mapping[FaultName, float]
    ) -> None:
        """Switch the faults that one wire decides upon.

        Parameters
        ----------
        t_ns : int
            Now.
        of : frozenset of str
            Faults that the wire decides upon.
        on : mapping
            Those of them that are to be on, to their size; see `FAULTS` and `Fault.size`.
        """
        with self._present.at(t_ns) as now_ns:
            for name in sorted(of):
                if (name in on) != (name in self._faults):
                    self._faults ^= frozenset[FaultName]({name})
                    self._inject(now_ns, name, on.get(name))
                    self.truth_log.write(now_ns, "fault", name=name, on=name in on)

    def _inject(self, now_ns: int, name: FaultName, size: float | None) -> None:
        """Switch a fault on, with its size, or off."""
        if name in _STAGE_FAULTS:
            self.stage.inject_fault(now_ns, name, size)
        elif name in _COLUMN_FAULTS:
            self.column.inject_fault(now_ns, name, size)
        elif name == "decoy":
            self.scan.repeat(size)
        elif name == "bulge-jumps":
            self._present.membrane.jumped_nm = size or 0.0
        else:
            self.heater.inject_fault(now_ns, name, size is not None)

    def image_truth(self, t_ns: int) -> ImageTruth:
        """Where the image truly is, now or a short while ago, and how far out of focus."""
        return self.scan.truth(t_ns)

    def equivalent_s(self, t_ns: int) -> float:
        """Equivalent time at 350 degC up to a moment, as the specimen's growth counts it."""
        with self._present.at(t_ns):
            return self._present.chip.at(t_ns)[1]

    def truth_at(self, t_ns: int) -> Truth:
        """Geometry of the sintering specimen; ValueError if the specimen is another."""
        if self.sintering is None:
            what = "a recording" if self.recording is not None else "a specimen of atoms"
            raise ValueError(f"{what} has no known geometry of spheres")
        return self.sintering.truth(self.equivalent_s(t_ns))

    def atoms_at(self, t_ns: int) -> AtomTruth:
        """Every atom of a specimen of atoms; ValueError if the specimen is another."""
        if self.atoms is None:
            raise ValueError("the specimen is not made of atoms")
        return self.atoms.truth(self.equivalent_s(t_ns))

    def close(self) -> None:
        """Finish the truth log."""
        with self._present.lock:
            dose = self._present.column.dose
            self.truth_log.write(self._present.t_ns, "dose", **asdict(dose))
            self.truth_log.close()
