"""Corrections of counts, frame by frame: what is wrong goes, what is sharp in truth stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyrotome.analysis.detector.correction import Code, CountCorrection, Wanted
from pyrotome.analysis.detector.gaps import constant_lines
from pyrotome.analysis.detector.levels import Levels, measure_levels
from pyrotome.analysis.detector.outliers import find_outliers
from pyrotome.analysis.detector.references import References, read_reference

SHAPE = (64, 96)


def mean_image(dose: float = 1.0, background: float = 20.0) -> NDArray[np.float64]:
    """A ball and a needle before vacuum; the needle is a pixel wide at its tip."""
    rows, columns = np.indices(SHAPE)
    ball = np.sqrt(np.maximum(12.0**2 - (rows - 30) ** 2 - (columns - 30) ** 2, 0)) * 40
    width = np.clip((rows - 8) / 12, 0.5, 5)
    needle = np.where((np.abs(columns - 70) <= width) & (rows >= 8), 300.0, 0.0)
    return dose * (ball + needle + background)


def frames(count: int, dose: float = 1.0, background: float = 20.0) -> NDArray[np.float32]:
    random = np.random.default_rng(11)
    image = mean_image(dose, background)
    return random.poisson(image, (count, *SHAPE)).astype(np.float32)


def corrected(stack: NDArray[np.float32], **wanted: Any) -> tuple[CountCorrection, list[Any]]:
    correction = CountCorrection(SHAPE, wanted=Wanted(**wanted))
    return correction, [correction.correct(frame) for frame in stack]


@pytest.mark.parametrize("dose", [1e-4, 1e-3, 0.01, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("per_electron", [1.0, 37.0])
def test_counts_of_any_dose_stay(dose: float, per_electron: float) -> None:
    stack = frames(8, dose) * np.float32(per_electron)
    correction, made = corrected(stack)
    assert [frame.hits for frame in made] == [0] * 8
    assert all(frame.mask is None for frame in made)
    assert correction.bad_pixels == []


@pytest.mark.parametrize("times", [0.2, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("centre", [(50.0, 50.0), (50.5, 50.5), (50.3, 50.7)])
def test_a_bright_atom_two_pixels_wide_stays(times: float, centre: tuple[float, float]) -> None:
    image = mean_image()
    rows, columns = np.indices(SHAPE)
    away = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
    image = image + times * image.max() * np.exp(-away * 4 * np.log(2) / 2.0**2)
    stack = np.random.default_rng(3).poisson(image, (4, *SHAPE)).astype(np.float32)
    _, made = corrected(stack)
    assert [frame.hits for frame in made] == [0] * 4


def test_a_square_atom_of_two_pixels_stays() -> None:
    stack = frames(6)
    stack[:, 50:52, 50:52] = 3 * stack.max()
    _, made = corrected(stack)
    assert all(frame.mask is None for frame in made)


@pytest.mark.parametrize("times", [0.3, 1, 10, 20, 40, 80])
def test_hits_go(times: float) -> None:
    stack = frames(6)
    clean = stack.copy()
    for number, image in enumerate(stack):
        image[5 + 9 * number, 3 + 2 * number] = times * stack[0].max()
    _, made = corrected(stack)
    assert [frame.hits for frame in made] == [1] * 6
    for frame, image in zip(made, clean, strict=True):
        assert np.abs(frame.image - image).max() < 120


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (3, 2), (4, 1)])
def test_hits_of_several_pixels_go(size: tuple[int, int]) -> None:
    stack = frames(2)
    stack[1, 40 : 40 + size[0], 50 : 50 + size[1]] = 25 * stack.max()
    _, made = corrected(stack)
    assert [frame.hits for frame in made] == [0, size[0] * size[1]]
    assert made[1].image.max() < 1000


@pytest.mark.parametrize("value", [65535.0, 3000.0, 200.0])
def test_a_hot_pixel_is_left_out_for_good(value: float) -> None:
    stack = frames(6)
    stack[:, 55, 20] = value
    correction, made = corrected(stack)
    (pixel,) = correction.bad_pixels
    assert (pixel.row, pixel.column, pixel.code) == (55, 20, Code.HOT)
    assert correction.conclude()[55, 20] == Code.HOT
    assert all(frame.mask[55, 20] for frame in made)


def test_a_pixel_that_shows_a_likely_value_for_ever_is_found() -> None:
    stack = frames(24)
    stack[:, 55, 20] = 21
    correction, made = corrected(stack)
    (pixel,) = correction.bad_pixels
    assert (pixel.row, pixel.column, pixel.code) == (55, 20, Code.STUCK)
    assert made[-1].mask[55, 20]


def test_bad_pixels_of_an_earlier_stack_are_known() -> None:
    known = np.zeros(SHAPE, np.uint8)
    known[10, 10], known[11, 11] = Code.HOT, Code.MARKED
    correction = CountCorrection(SHAPE, known=known)
    made = correction.correct(frames(1)[0])
    assert made.mask is not None
    assert np.argwhere(made.mask).tolist() == [[10, 10]], "marks are looked for in each frame"


@pytest.mark.parametrize("offset", [-31880.0, -500.0, 5000.0, 20000.0])
def test_a_pedestal_is_taken_away(offset: float) -> None:
    plain, raised = frames(1)[0], frames(1)[0] + np.float32(offset)
    (_, (one,)), (found, (other,)) = corrected(plain[None]), corrected(raised[None])
    assert abs(found.pedestal - offset) < 25
    assert np.allclose(other.image - other.image.mean(), one.image - one.image.mean(), atol=0.01)


def test_counts_without_a_pedestal_stay() -> None:
    for background in (0.0, 0.5, 5.0, 80.0):
        correction, made = corrected(frames(1, background=background))
        assert correction.pedestal == 0
        assert np.array_equal(made[0].image, frames(1, background=background)[0])


def test_a_specimen_that_fills_the_frame_keeps_its_level() -> None:
    random = np.random.default_rng(1)
    film = 400 + 250 * np.sin(np.indices(SHAPE)[1] / 9.0)
    assert measure_levels(random.poisson(film)).pedestal == 0


def test_gaps_rows_and_the_padding_of_aligned_images() -> None:
    image = frames(1)[0]
    assert constant_lines(image) is None
    gap = image.copy()
    gap[20:24], gap[:, 40] = 0, 0
    lines = constant_lines(gap)
    assert lines is not None
    assert np.flatnonzero(lines.all(axis=1)).tolist() == [20, 21, 22, 23]
    assert np.flatnonzero(lines.all(axis=0)).tolist() == [40]
    padded = image.copy()
    padded[:, :6] = 20
    assert constant_lines(padded) is None, "padded with the level of the vacuum"
    quiet = mean_image(background=0.0)
    assert constant_lines(quiet) is None, "an image without noise has empty rows"


def test_a_frame_of_another_kind_is_left_alone() -> None:
    noise = np.random.default_rng(2).standard_cauchy(SHAPE).astype(np.float32)
    outliers, doubtful = find_outliers(noise, Levels(0.0, 0.0, 0.01, 0.01))
    assert doubtful
    assert not outliers.any()


def test_dark_gain_and_mask(tmp_path: Any) -> None:
    random = np.random.default_rng(5)
    dark = random.uniform(90, 110, SHAPE).astype(np.float32)
    gain = random.uniform(0.8, 1.2, SHAPE).astype(np.float32)
    gain[3, 4] = 0
    truth = frames(1)[0]
    np.save(tmp_path / "dark.npy", dark)
    np.savez(tmp_path / "gain.npz", gain)
    references = References(
        read_reference(tmp_path / "dark.npy"), read_reference(tmp_path / "gain.npz")
    )
    correction = CountCorrection(SHAPE, references)
    made = correction.correct(truth * gain / np.median(gain) + dark)
    assert correction.conclude()[3, 4] == Code.REFERENCE
    assert made.mask is not None
    assert np.allclose(made.image[~made.mask], truth[~made.mask], atol=0.01)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("dark.npy", b"nonsense", "cannot be read"),
        ("dark.txt", b"1 2", "is read from"),
        ("dark.tif", b"II*", "cannot be read"),
        ("dark.mrc", b"", "cannot be read"),
    ],
)
def test_a_reference_that_cannot_be_read(
    tmp_path: Any, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_reference(tmp_path / name)


def test_the_recorded_frame_is_not_changed() -> None:
    frame = frames(1)[0] - np.float32(500)
    frame[7, 7] = np.nan
    before = frame.copy()
    CountCorrection(SHAPE).correct(frame)
    assert np.array_equal(frame, before, equal_nan=True)
