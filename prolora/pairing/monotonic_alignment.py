"""The best pairing of two sequences that keeps their order (Needleman and Wunsch, 1970)."""

from collections.abc import Sequence


def monotonic_alignment(gains: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """The pairs (row, column), both ascending, with the largest sum of gains.

    A row or a column is in one pair at most. Leaving it unpaired costs nothing, so only pairs with
    a positive gain are made. Where several sets of pairs have the same sum, the earlier rows and
    columns are paired: of a block and its copy, which tools that deepen models insert after it, it
    is the block.

    Args:
        gains: rows x columns.
    """
    rows, columns = len(gains), len(gains[0]) if gains else 0
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]  # the sum from row i and column j on
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            paired = gains[i][j] + best[i + 1][j + 1]
            best[i][j] = max(best[i + 1][j], best[i][j + 1], paired)
    pairs = []
    i = j = 0
    while i < rows and j < columns:
        if gains[i][j] > 0 and best[i][j] == gains[i][j] + best[i + 1][j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs
