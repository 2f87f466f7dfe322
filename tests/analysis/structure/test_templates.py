"""Template matching by OVITO, where it is installed; else what to install."""

import numpy as np
import pytest
from lattices import METAL_EDGE, ball, inner

from pyrotome.analysis.structure import match_templates
from pyrotome.analysis.structure.lattice.templates import KINDS, OvitoMissing


@pytest.mark.interop
@pytest.mark.parametrize(
    ("kind", "edge"), [("fcc", METAL_EDGE), ("bcc", 3.6), ("hcp", 3.3), ("diamond", 5.4)]
)
def test_lattices_are_recognised(kind, edge):
    pytest.importorskip("ovito")
    atoms = ball(kind, edge, 12.0)
    found = match_templates(atoms)
    deep = inner(atoms, 6.0)
    assert {KINDS[n] for n in found.kind[deep]} == {kind}
    assert np.abs(found.rmsd[deep]).max() < 1e-3


def test_without_ovito_it_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ovito.data", None)
    with pytest.raises(OvitoMissing):
        match_templates(ball("fcc", METAL_EDGE, 8.0))
