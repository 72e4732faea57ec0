"""Pairs joined into components, and components split into clusters round survivors.

Components by union-find over plain arrays: labels are the least node of each component, so neither the order of
pairs nor of nodes changes them. "Near" is not transitive: a chain of near pairs can join pictures that have nothing in
common. So a component is only where survivors are looked for; `leaders` checks every member against the survivor it
is given to. What this does *not* do: say who is better (`survivors`), or what "the same" means (`clusters`).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.blocks import Hashes

Indices = NDArray[np.int64]
Matches = Callable[[Indices, Indices], NDArray[np.bool_]]


def connected(nodes: int, left: Indices, right: Indices) -> Indices:
    """Label each node with the least node of its component.

    Each round hooks every root onto the least root it has a pair with, then points all nodes at their roots. Pairs
    inside one component drop out, so that rounds get cheaper.

    Args:
        nodes: how many there are.
        left: int64[P], one end of each pair.
        right: int64[P], the other end.

    Returns:
        int64[nodes].

    Source: Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", 1982.

    Example:
        >>> connected(6, np.array([5, 1, 4]), np.array([1, 3, 2])).tolist()
        [0, 1, 2, 1, 2, 1]
    """
    root = np.arange(nodes)
    while len(left):
        left, right = root[left], root[right]
        apart = left != right
        left, right = left[apart], right[apart]
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(up := root[root], root):
            root = up
    return root


def component_labels(left: Hashes, right: Hashes) -> tuple[Hashes, Hashes]:
    """Label the hashes that occur in pairs with the least hash of their component.

    Args:
        left: uint64[P].
        right: uint64[P].

    Returns:
        hashes uint64[M], ascending, those in some pair; labels uint64[M].
    """
    hashes, ends = np.unique(np.concatenate([left, right]), return_inverse=True)
    labels = connected(len(hashes), ends[: len(left)].astype(np.int64), ends[len(left) :].astype(np.int64))
    return hashes, hashes[labels]


def leaders(groups: NDArray[np.uint64], fixed: NDArray[np.bool_], matches: Matches) -> Indices:
    """Give every member to a leader that it matches: leader clustering, the best row of what is left leading next.

    Args:
        groups: uint64[N], ascending; only rows of one group can be given to each other. Within a group the best is
        first.
        fixed: bool[N], rows that lead whatever they match.
        matches: (members int64[m], leaders int64[m]) → bool[m], whether a member belongs to a leader.

    Returns:
        int64[N], the leader of each row, itself for a leader; a leader never has another leader.

    Example:
        A chain 0 - 1 - 2 - 3 of neighbours that match is split, because its ends do not:
        >>> leaders(np.zeros(4, np.uint64), np.zeros(4, bool), lambda a, b: abs(a - b) <= 1).tolist()
        [0, 0, 2, 2]
    """
    leader = np.arange(len(groups))
    left = np.arange(len(groups))
    while len(left):
        first = np.concatenate([[True], groups[left[1:]] != groups[left[:-1]]])
        chosen = left[first][np.cumsum(first) - 1]
        taken = ~fixed[left]
        taken[taken] = matches(left[taken], chosen[taken])
        leader[left[taken]] = chosen[taken]
        left = left[~(taken | (left == chosen))]
    return leader
