"""Bytes of keys and values against a limit, and the room that is learned below it, worked out by hand."""

import torch

from llava_core.engine.kv import KVBudget, KVShape

CPU = torch.device("cpu")


def test_room_that_was_learned_grows_with_each_release_also_while_a_prefix_stays() -> None:
    shape = KVShape(num_layers=1, num_heads=1, head_dim=1, dtype=torch.float32)
    budget = KVBudget(shape, 100 * shape.bytes_per_token)
    prefix, first = budget.allocate((20, 10), CPU)
    budget.learn()
    assert not budget.fits(1)
    budget.release(first)
    # 20 are in use, 30 were known to fit, and 10 more are tried
    assert budget.fits(20) and not budget.fits(21)
    caches = budget.allocate((10, 10), CPU)
    assert not budget.fits(1)
    for cache in caches:
        budget.release(cache)
    assert budget.fits(40) and not budget.fits(41)
    budget.release(prefix)
    budget.allocate((1,), CPU)
    assert budget.fits(79) and not budget.fits(80)


def test_room_never_grows_beyond_the_limit() -> None:
    shape = KVShape(num_layers=1, num_heads=1, head_dim=1, dtype=torch.float32)
    budget = KVBudget(shape, 50 * shape.bytes_per_token)
    for _ in range(9):
        kept, let_go = budget.allocate((7, 30), CPU)
        budget.release(let_go)
        assert budget.fits(43) and not budget.fits(44)
        budget.release(kept)
