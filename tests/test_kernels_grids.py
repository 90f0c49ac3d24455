"""What is particular to the kernels of the I-quants.

Weights on their grids and halfway between points, equal weights that have to be sorted, scales at which shortcuts are
not exact, and tables that several threads want at once.
"""

from __future__ import annotations

import ctypes
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import tamed

from pipeline.ggml import LIBRARY, NUMBERS
from pipeline.gguf_file import SIZES
from pipeline.kernels import build, proof, prove, tables
from pipeline.toolchain import tools

TYPES = [name for name in build.types() if name.startswith("IQ")]
# The grid of a type, and what a level stands for.
GRIDS = {
    "IQ1_S": ("IQ1_S", -0.875),
    "IQ1_M": ("IQ1_S", -1.125),
    **{name: (name, 1.0) for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")},
}
ROWS, ROW = 6, 512


@pytest.fixture(scope="module")
def libraries(machine_store, toolchain):
    ours = proof.proven(machine_store, toolchain, TYPES).library
    return tools(machine_store, toolchain).path(LIBRARY), ours


@pytest.fixture(scope="module")
def pairs(libraries):
    loaded = [ctypes.CDLL(str(library)) for library in libraries]
    return {name: prove.Pair(*loaded, prove.Type(name, NUMBERS[name], *SIZES[name])) for name in TYPES}


def levels(name):
    """The points of a grid, as levels."""
    count = 4 if name.startswith("IQ3") else 8
    return np.array([[point >> 4 * i & 15 for i in range(count)] for point in tables.points(name)])


@pytest.mark.parametrize(("name", "size"), [*zip(tables.GRIDS, (2048, 256, 512, 1024, 256, 512), strict=True)])
def test_the_tables(name, size):
    points = levels(name)
    assert len(np.unique(points, axis=0)) == len(points) == size
    assert points.min() == points[0].max() == 0
    assert points.max() == (7 if name.startswith("IQ3") else 2)
    assert f"{name}_POINTS[{size}]" in tables.header()


def on_grid(random, name):
    """Rows of which every 8 or 4 weights are a point of the type's grid, in sub-blocks of their own scales."""
    grid, first = GRIDS[name]
    points = levels(grid)
    values = points[random.integers(len(points), size=ROWS * ROW // points.shape[1])].reshape(ROWS, ROW)
    values = values + first if first < 0 else (2 * values + 1) * random.choice([-1, 1], (ROWS, ROW))
    return values * np.repeat(np.exp(random.standard_normal((ROWS, ROW // 16))), 16, axis=1)


def between(random, _):
    """Rows of few numbers, halfway between points: many are equal, and many as far from one point as from another."""
    whole = random.integers(-8, 9, (ROWS, ROW)) * random.choice([1, 0.5, 2], (ROWS, 1))
    return np.where(random.random((ROWS, ROW)) < 0.3, 16, whole)


def equal(random, _):
    """Rows with zeros of both signs, sub-blocks of nothing but zeros, and of few different numbers."""
    few = random.standard_normal(3)[random.integers(3, size=(ROWS, ROW))]
    few = np.where(random.random((ROWS, ROW)) < 0.4, random.choice([0.0, -0.0], (ROWS, ROW)), few)
    return few * np.repeat(random.integers(0, 2, (ROWS, ROW // 32)), 32, axis=1)


def outlying(random, _):
    """Rows of small weights, and one in each sub-block that is much larger."""
    small = random.standard_normal((ROWS, ROW)) * np.exp(4 * random.standard_normal((ROWS, 1)))
    return np.where(np.arange(ROW) % 16 == random.integers(16), small * 1e4, small)


IMPORTANCE = {
    "ones": lambda _: np.ones(ROW),
    "usual": lambda random: np.exp(random.standard_normal(ROW)),
    "few": lambda random: np.where(random.random(ROW) < 0.7, 0, 1),
    "tiny": lambda random: random.random(ROW) * 1e-30,
    "far apart": lambda random: np.exp(12 * random.standard_normal(ROW)),
}


@pytest.mark.real
@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from([on_grid, between, equal, outlying]),
    importance=st.sampled_from([*IMPORTANCE, None]),
    size=st.sampled_from([1, 1 / 3, 1e-3, 1e-9, 1e-17, 1e6]),
    seed=st.integers(0, 1 << 32),
)
def test_the_same_bytes_as_ggml(pairs, name, kind, importance, size, seed):
    random = np.random.default_rng(seed)
    values = (kind(random, name) * size).astype(np.float32)
    if importance is None and pairs[name].needs_imatrix:
        importance = "ones"
    matrix = None if importance is None else IMPORTANCE[importance](random).astype(np.float32)
    assert pairs[name].different(tamed(name, values, matrix), matrix) == 0


@pytest.mark.real
@pytest.mark.parametrize("name", TYPES)
def test_threads_that_begin_at_once(libraries, pairs, tmp_path, name):
    """In a library of its own, whose tables are not made yet."""
    fresh = tmp_path / build.LIBRARY
    shutil.copyfile(libraries[1], fresh)
    pair = prove.Pair(ctypes.CDLL(str(libraries[0])), ctypes.CDLL(str(fresh)), pairs[name].type)
    random = np.random.default_rng(1)
    values, matrix = prove.plain_rows(random, ROW), np.ones(ROW, np.float32)
    theirs = pair.out(values)
    pair.by_ggml(values, matrix, theirs)
    ours = [pair.out(values) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda out: pair.by_kernel(values, matrix, out), ours))
    assert all(np.array_equal(theirs, out) for out in ours)


@pytest.mark.real
@pytest.mark.parametrize("turn", range(10))
def test_threads_that_begin_with_different_types(libraries, pairs, tmp_path, turn):
    """Types share tables, and the first call of the one must not write what the other reads."""
    fresh = tmp_path / build.LIBRARY
    shutil.copyfile(libraries[1], fresh)
    loaded = [ctypes.CDLL(str(libraries[0])), ctypes.CDLL(str(fresh))]
    matrix = np.ones(ROW, np.float32)

    def different(name):
        pair = prove.Pair(*loaded, pairs[name].type)
        values = np.concatenate([prove.plain_rows(np.random.default_rng([turn, n]), ROW) for n in range(2)])
        ours, theirs = pair.out(values), pair.out(values)
        both.wait(30)
        pair.by_kernel(values, matrix, ours)
        pair.by_ggml(values, matrix, theirs)
        return not np.array_equal(ours, theirs)

    for names in (("IQ2_XXS", "IQ2_XS", "IQ2_S"), ("IQ3_XXS", "IQ3_S")):
        both = threading.Barrier(len(names))
        with ThreadPoolExecutor(len(names)) as pool:
            wrong = [name for name, is_wrong in zip(names, pool.map(different, names), strict=True) if is_wrong]
        assert wrong == []
