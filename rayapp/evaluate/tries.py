"""Several tries at one item: the chance that one of k answers is right, and that all of them are.

Both are unbiased from n ≥ k samples of which c are right, without drawing subsets: of all subsets
of k samples, the share that has one right answer, and the share that has nothing else.
"""

from math import comb

import numpy as np

from rayapp.evaluate.statistics import Floats, Ints


def pass_at(num_right: int, num_samples: int, k: int) -> float:
    """pass@k = 1 − C(n − c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language Models
    Trained on Code", arXiv:2107.03374).

    >>> pass_at(1, 4, 2)
    0.5
    """
    return 1 - comb(num_samples - num_right, k) / comb(num_samples, k)


def pass_all(num_right: int, num_samples: int, k: int) -> float:
    """pass^k = C(c, k) / C(n, k) (Yao et al. 2024, "τ-bench", arXiv:2406.12045).

    >>> pass_all(3, 4, 2)
    0.5
    """
    return comb(num_right, k) / comb(num_samples, k)


def names_of(success: str, k: int) -> tuple[str, ...]:
    """The metrics of k tries, pass@k first."""
    both = (f"{success}_pass_at_{k}", f"{success}_pass_all_{k}")
    return both[:1] if k == 1 else both


def tries_of(success: str, right_N: Ints, num_samples: int, k: int) -> dict[str, Floats]:
    """By name, a number for each item. right_N: right answers among its samples."""
    formulas = (pass_at, pass_all)
    return {
        name: np.array([formula(int(c), num_samples, k) for c in right_N], np.float64)
        for name, formula in zip(names_of(success, k), formulas, strict=False)
    }
