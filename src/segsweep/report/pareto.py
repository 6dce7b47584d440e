"""The configurations that no other one beats in cost and score at once."""

from collections.abc import Sequence


def front(points: Sequence[tuple[str, float, float]], is_gain: bool) -> list[tuple[str, float, float]]:
    """Those that no other one beats, by rising cost.

    Args:
        points: name, cost, score; the higher a score, the better.
        is_gain: whether more of the cost is better, as of images per second.

    >>> front([("a", 1.0, 0.5), ("b", 2.0, 0.4), ("c", 3.0, 0.7)], is_gain=False)
    [('a', 1.0, 0.5), ('c', 3.0, 0.7)]
    """
    ordered = sorted(points, key=lambda p: (-p[1] if is_gain else p[1], -p[2]))
    best: list[tuple[str, float, float]] = []
    for point in ordered:
        if not best or point[2] > best[-1][2]:
            best.append(point)
    return best[::-1] if is_gain else best
