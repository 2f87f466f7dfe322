"""Loops over pixels and voxels: Gaussian peaks drawn into a view and gathered from it; maxima.

A view is a padded image: `margin` pixels on every side belong to no recorded pixel. An atom whose
window leaves the padded image is skipped. Windows are `wide` columns, a multiple of 8, so that the
inner loops stay in vector registers. Positions count from the first pixel of the padded image.
"""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import math

import numba
import numpy as np

# Values of the Poisson mean below this count as this.
LEAST_MEAN = 1e-3
_MOST = 128


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _profile(centre, width, count, size, values, slopes):
    """Gaussian and its derivative by the centre in a window of `count` pixels, by recurrence.

    Returns the first pixel of the window; -1 if it does not lie within `size` pixels.
    """
    first = math.floor(centre - 0.5 * (count - 2))
    if first < 0 or first + count > size:
        return -1
    inverse = 1.0 / (width * width)
    offset = first - centre
    value = math.exp(-0.5 * offset * offset * inverse)
    ratio = math.exp(-(offset + 0.5) * inverse)
    quotient = math.exp(-inverse)
    for i in range(count):
        values[i] = value
        slopes[i] = value * offset * inverse
        value *= ratio
        ratio *= quotient
        offset += 1.0
    return first


@numba.njit(nogil=True, cache=True, error_model="numpy")
def draw(rows, columns, plain, along_rows, along_columns, width, tall, wide, image):
    """Add ``plain * G + along_rows * dG/drow + along_columns * dG/dcolumn`` of each atom.

    G is a Gaussian of sum 1 and standard deviation `width`; derivatives are by the atom's place.
    """
    norm = 1 / (2 * math.pi * width * width)
    value_r, slope_r = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    value_c, slope_c = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    even, odd = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    for a in range(rows.size):
        top = _profile(rows[a], width, tall, image.shape[0], value_r, slope_r)
        left = _profile(columns[a], width, wide, image.shape[1], value_c, slope_c)
        if top < 0 or left < 0:
            continue
        zero = np.float32(plain[a] * norm)
        one = np.float32(along_columns[a] * norm)
        two = np.float32(along_rows[a] * norm)
        for j in range(wide):
            even[j] = zero * value_c[j] + one * slope_c[j]
            odd[j] = two * value_c[j]
        for i in range(tall):
            line = image[top + i]
            value, slope = value_r[i], slope_r[i]
            for j in range(wide):
                line[left + j] += value * even[j] + slope * odd[j]


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def gather(rows, columns, width, tall, wide, image, sums):
    """Sums over pixels of the image times G, dG/drow and dG/dcolumn of each atom; (atoms, 3)."""
    norm = 1 / (2 * math.pi * width * width)
    value_r, slope_r = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    value_c, slope_c = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    for a in range(rows.size):
        sums[a] = 0.0
        top = _profile(rows[a], width, tall, image.shape[0], value_r, slope_r)
        left = _profile(columns[a], width, wide, image.shape[1], value_c, slope_c)
        if top < 0 or left < 0:
            continue
        plain = along_r = along_c = np.float32(0.0)
        for i in range(tall):
            line = image[top + i]
            even = odd = np.float32(0.0)
            for j in range(wide):
                even += value_c[j] * line[left + j]
                odd += slope_c[j] * line[left + j]
            plain += value_r[i] * even
            along_r += slope_r[i] * even
            along_c += value_r[i] * odd
        sums[a, 0] = plain * norm
        sums[a, 1] = along_r * norm
        sums[a, 2] = along_c * norm


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def gather_squares(rows, columns, width, tall, wide, image, sums):
    """Sums of the image times products of G, dG/drow, dG/dcolumn: 00 01 02 11 12 22."""
    norm = 1 / (2 * math.pi * width * width)
    value_r, slope_r = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    value_c, slope_c = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    for a in range(rows.size):
        sums[a] = 0.0
        top = _profile(rows[a], width, tall, image.shape[0], value_r, slope_r)
        left = _profile(columns[a], width, wide, image.shape[1], value_c, slope_c)
        if top < 0 or left < 0:
            continue
        total = np.zeros(6, np.float32)
        for i in range(tall):
            line = image[top + i]
            square = mixed = slopes = np.float32(0.0)
            for j in range(wide):
                weight = value_c[j] * line[left + j]
                square += value_c[j] * weight
                mixed += slope_c[j] * weight
                slopes += slope_c[j] * slope_c[j] * line[left + j]
            both = value_r[i] * value_r[i]
            cross = value_r[i] * slope_r[i]
            total[0] += both * square
            total[1] += cross * square
            total[2] += both * mixed
            total[3] += slope_r[i] * slope_r[i] * square
            total[4] += cross * mixed
            total[5] += both * slopes
        for n in range(6):
            sums[a, n] = total[n] * norm * norm


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def removal_gain(rows, columns, heights, width, tall, wide, counts, means, gains):
    """Add to `gains` by how much each atom raises the Poisson log likelihood of a view.

    The other atoms stay as they are. Pixels of the margin have a mean of 0 and do not count.
    """
    norm = 1 / (2 * math.pi * width * width)
    value_r, slope_r = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    value_c, slope_c = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    for a in range(rows.size):
        top = _profile(rows[a], width, tall, means.shape[0], value_r, slope_r)
        left = _profile(columns[a], width, wide, means.shape[1], value_c, slope_c)
        if top < 0 or left < 0:
            continue
        total = 0.0
        for i in range(tall):
            scale = heights[a] * norm * value_r[i]
            for j in range(wide):
                mean = means[top + i, left + j]
                if mean > 0:
                    part = scale * value_c[j]
                    rest = max(mean - part, LEAST_MEAN)
                    count = counts[top + i, left + j]
                    total -= part
                    if count > 0:
                        total += count * math.log(mean / rest)
        gains[a] += total


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def blur(image, kernel, scratch, out):
    """Convolve an image with a separable, symmetric kernel; beyond the border it is 0."""
    high, broad = image.shape
    reach = kernel.size - 1
    for i in range(high):
        line, target = image[i], scratch[i]
        for j in range(broad):
            target[j] = kernel[0] * line[j]
        for k in range(1, reach + 1):
            weight = kernel[k]
            for j in range(broad - k):
                target[j] += weight * line[j + k]
            for j in range(broad - k):
                target[j + k] += weight * line[j]
    for i in range(high):
        target = out[i]
        for j in range(broad):
            target[j] = kernel[0] * scratch[i, j]
        for k in range(1, reach + 1):
            weight = kernel[k]
            if i + k < high:
                for j in range(broad):
                    target[j] += weight * scratch[i + k, j]
            if i - k >= 0:
                for j in range(broad):
                    target[j] += weight * scratch[i - k, j]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def expected(peaks, tails, tail, gain, background, floor, known, means):
    """Expected counts of a view: background, peaks and tail; 0 where a pixel is not known."""
    high, broad = means.shape
    for i in range(high):
        for j in range(broad):
            mean = background + floor[i, j] + gain * (peaks[i, j] + tail * tails[i, j])
            means[i, j] = max(mean, LEAST_MEAN) if known[i, j] else 0.0


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def log_likelihood(counts, means):
    """Poisson log likelihood of a view, without the term of the counts alone."""
    total = 0.0
    high, broad = means.shape
    for i in range(high):
        part = 0.0
        for j in range(broad):
            if means[i, j] > 0:
                part += counts[i, j] * math.log(means[i, j]) - means[i, j]
        total += part
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def residuals(counts, means, excess, weights):
    """Score counts/mean - 1 and Fisher weight 1/mean of each pixel; 0 where it is not known."""
    high, broad = means.shape
    for i in range(high):
        for j in range(broad):
            if means[i, j] > 0:
                weights[i, j] = 1 / means[i, j]
                excess[i, j] = counts[i, j] * weights[i, j] - 1
            else:
                weights[i, j] = excess[i, j] = 0.0


@numba.njit(nogil=True, cache=True, error_model="numpy")
def pull_back(sums, jacobian, heights, into):
    """Add a view's sums over pixels to the gradient by (x, y, z, height) of each atom.

    `jacobian` (2, 3) holds the derivatives of (row, column) by (x, y, z).
    """
    for a in range(heights.size):
        along_r, along_c = heights[a] * sums[a, 1], heights[a] * sums[a, 2]
        for n in range(3):
            into[a, n] += jacobian[0, n] * along_r + jacobian[1, n] * along_c
        into[a, 3] += sums[a, 0]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_blocks(sums, jacobian, heights, blocks):
    """Add the Fisher information of a view about (x, y, z, height) of each atom to `blocks`."""
    for a in range(heights.size):
        high = heights[a]
        rr, rc, cc = high * high * sums[a, 3], high * high * sums[a, 4], high * high * sums[a, 5]
        hr, hc = high * sums[a, 1], high * sums[a, 2]
        for m in range(3):
            one = rr * jacobian[0, m] + rc * jacobian[1, m]
            two = rc * jacobian[0, m] + cc * jacobian[1, m]
            for n in range(3):
                blocks[a, m, n] += one * jacobian[0, n] + two * jacobian[1, n]
            side = hr * jacobian[0, m] + hc * jacobian[1, m]
            blocks[a, m, 3] += side
            blocks[a, 3, m] += side
        blocks[a, 3, 3] += sums[a, 0]


@numba.njit(nogil=True, cache=True)
def mark_maxima(volume, y, above, marks):
    """Mark the voxels of layer `y` that exceed `above` and all 26 neighbours.

    Of equal neighbours the first counts as greater.
    """
    _, high, broad = volume.shape
    for i in range(1, high - 1):
        for j in range(1, broad - 1):
            value = volume[y, i, j]
            if value <= above:
                continue
            highest = True
            for a in range(-1, 2):
                for b in range(-1, 2):
                    for c in range(-1, 2):
                        other = volume[y + a, i + b, j + c]
                        before = a * 9 + b * 3 + c < 0
                        if other > value or (other == value and before):
                            highest = False
            if highest:
                marks[i, j] = 1
