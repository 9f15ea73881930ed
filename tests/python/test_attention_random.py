"""A thousand random problems against float64."""

import pytest

from dense_reference import assert_close
from problems import random_problem

PROBLEMS_PER_TEST = 50


@pytest.mark.parametrize("first_seed", range(0, 1000, PROBLEMS_PER_TEST))
def test_random_problems(first_seed):
    for seed in range(first_seed, first_seed + PROBLEMS_PER_TEST):
        problem = random_problem(seed)
        assert_close(problem.run(), problem.expected(), problem.q.dtype, f"seed {seed}: {problem}")
