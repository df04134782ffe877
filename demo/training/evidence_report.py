"""Print the tables of evidence.csv: shares of what a LoRA trained anew on the target gains.

    python -m demo.training.evidence_report

A share is 1 for the LoRA that is trained on the target, on its own pictures in the style, and 0 for
no LoRA. Of the distilled target it is 1 where its pictures are those of the source from the same
noise; a LoRA that is trained on it in the ordinary way is a row like the others there. Where blocks
of styles and seeds are whole, mean and deviation are over them, and the tests are paired: a case is
one target, style and seed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from scipy.stats import ttest_rel, wilcoxon

from demo.training.evidence import DISTILLED, Case, read_results

ROWS = (
    *("copy", "full", "prolora", "subspace", "casa", "calibrated"),
    *("refined 10", "refined 25", "refined 50", "from nothing 25"),
    *("refined 25, own 0", "refined 25, own 0.15"),
    *("calibrated, samples without", "refined 25, samples without"),
    *("refined 25, single predictions", "retrained"),
)
TARGETS = ("b", "pruned", "deepened", DISTILLED)
RIVALS = ("copy", "full", "calibrated")

# Row -> case -> share.
Shares = Mapping[str, Mapping[Case, float]]


def shares(column: int) -> Shares:
    """Of the losses of a column: 0 for the target's own pictures, 1 for the source's."""
    losses: dict[Case, dict[str, float]] = defaultdict(dict)
    for target, style, seed, row, *values in read_results():
        losses[Case(target, style, int(seed))][row] = float(values[column])
    found: dict[str, dict[Case, float]] = defaultdict(dict)
    for case, of in losses.items():
        ceiling = 0.0 if case.target == DISTILLED else of.get("retrained")
        if ceiling is None or "without" not in of:
            continue
        for row, loss in of.items():
            found[row][case] = (of["without"] - loss) / (of["without"] - ceiling)
    return found


def of_target(found: Shares, row: str, target: str) -> list[float]:
    return [share for case, share in found[row].items() if case.target == target]


def said(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def print_table(found: Shares, rows: Sequence[str], targets: Sequence[str]) -> None:
    print("| | " + " | ".join(targets) + " |\n" + "| --- " * (len(targets) + 1) + "|")
    for row in rows:
        if row in found:
            cells = [said(of_target(found, row, target)) for target in targets]
            print(f"| {row} | " + " | ".join(cells) + " |")


def print_tests(found: Shares, rows: Sequence[str], targets: Sequence[str]) -> None:
    """How much more than its rivals each row has, over the same cases."""
    print("| | than | cases | more by | better in | p (t) | p (Wilcoxon) |\n" + "| --- " * 7 + "|")
    for row in rows:
        for rival in RIVALS:
            if row == rival or row not in found:
                continue
            both = [c for c in found[row] if c in found[rival] and c.target in targets]
            if len(both) < 3:
                continue
            ours, theirs = ([found[name][c] for c in both] for name in (row, rival))
            more = [a - b for a, b in zip(ours, theirs, strict=True)]
            wins = sum(difference > 0 for difference in more)
            t, w = ttest_rel(ours, theirs).pvalue, wilcoxon(ours, theirs).pvalue
            figures = f"{mean(more):+.3f} | {wins} | {t:.1g} | {w:.1g}"
            print(f"| {row} | {rival} | {len(both)} | {figures} |")


def main() -> None:
    own = shares(0)
    print("Share of the gain, on the target's own pictures in the style\n")
    print_table(own, ROWS, TARGETS)
    print("\nPaired tests over B, pruned and deepened\n")
    print_tests(own, ("full", "calibrated", "refined 10", "refined 25", "refined 50"), TARGETS[:3])
    print("\nPaired tests on the distilled target\n")
    print_tests(own, ("calibrated", "refined 10", "refined 25", "refined 50"), TARGETS[3:])
    print("\nLosses on the source's pictures in the style, B\n")
    rows = ("without", "retrained", *ROWS)
    losses: dict[str, list[float]] = defaultdict(list)
    for target, _, _, row, _, of_source in read_results():
        if target == "b":
            losses[row].append(float(of_source))
    for row in dict.fromkeys(rows):
        if row in losses:
            print(f"| {row} | {said(losses[row])} |")


if __name__ == "__main__":
    main()
