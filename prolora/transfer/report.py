"""What happened to every module, as rows, as a summary for people and as JSON."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from statistics import median

from ..algebra.quadrants import Quadrants
from ..algebra.subspace import Similarity
from ..errors import truncated_list
from .modes import mode_named

_LISTED = 5  # how many modules of a kind the summary names before it counts the rest
_SIMILARITIES = [s + kind for kind in ("", "_chance", "_corrected") for s in ("left", "right")]


@dataclass(frozen=True)
class Measures:
    """What was measured on the weights of one module; None where nothing had to be.

    Attributes:
        source_rank, target_rank: k_s and k_t, the effective ranks.
        similarity: Phi_l and Phi_r with their chance levels.
        quadrants: energies of the four parts of the update, split by the source's subspaces.
    """

    source_rank: int | None = None
    target_rank: int | None = None
    similarity: Similarity | None = None
    quadrants: Quadrants | None = None


@dataclass(frozen=True)
class ModuleReport:
    """One row.

    Attributes:
        status: "moved" (projected), "copied" (as it was) or "skipped".
        reason: why it was copied or skipped.
        source_key, target_key: the weights, with their slice where they are fused; "" if unknown.
        source_shape, target_shape: of the weights; () where there is none.
        rank_in, rank_out: of the update, before and after; 0 where nothing came out.
        family: of the adapter; "" if unknown.
        energy_kept: energy of the result over that of the update; None if not projected. In
            [0, 1] but for mode casa, which may add to it.
        energy_dropped: share of the projected energy that the cut to `rank_out` dropped.
    """

    name: str
    status: str
    reason: str = ""
    family: str = ""
    source_key: str = ""
    target_key: str = ""
    source_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    measures: Measures = Measures()
    rank_in: int = 0
    rank_out: int = 0
    energy_kept: float | None = None
    energy_dropped: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """A flat row, for JSON, with the same fields for every module: None where not measured."""
        row: dict[str, object] = {k: v for k, v in asdict(self).items() if k != "measures"}
        row |= {"k_s": self.measures.source_rank, "k_t": self.measures.target_rank}
        phi, parts = self.measures.similarity, self.measures.quadrants
        for name in _SIMILARITIES:
            row[f"phi_{name}"] = None if phi is None else _no_nan(getattr(phi, name))
        for part in fields(Quadrants):
            share = None if parts is None else getattr(parts, part.name) / (parts.total or 1.0)
            row[f"energy_{part.name}"] = share
        return row


@dataclass(frozen=True)
class Report:
    """A whole transfer.

    Attributes:
        settings: the choices, as text.
        unknown_keys: keys of the LoRA file that belong to no known family.
        notes: what the user must know about how the file was read and its blocks were paired.
        widths: in which the two models differ, see module_tree.other_widths; "" where the
            mode goes from one to another.
        pairs: target block -> source block, as a user may give them; see block_pairs.py.
    """

    lora: str
    source: str
    target: str
    settings: Mapping[str, str]
    rows: tuple[ModuleReport, ...]
    unknown_keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pairs: Mapping[str, str | None] = field(default_factory=dict)
    widths: str = ""

    def count(self, *statuses: str) -> int:
        return sum(row.status in statuses for row in self.rows)

    @property
    def transferred(self) -> int:
        """How many modules the result has."""
        return self.count("moved", "copied")

    @property
    def warning(self) -> str:
        """What the user must hear, or ""."""
        if self.transferred:
            return ""
        best = max((phi.score for phi, _ in self._measured()), default=None)
        found = "" if best is None else f" The best similarity found was {best:.3f}."
        return (
            "NOTHING WAS MOVED: no module reached the threshold "
            f"{self.settings['threshold']}, so the result is empty and changes nothing.{found} "
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        if mode_named(self.settings["mode"]).crosses_widths:
            return (
                "Between widths the similarity says little: a threshold of 0 moves all that has a "
                "place."
            )
        if self.widths:
            return (
                f"The two models have other widths ({self.widths}). Mode cross_width, which is "
                "experimental, goes from one width to another."
            )
        return (
            "Is the source the checkpoint that the LoRA was trained on? Lower the threshold to "
            "move it all the same."
        )

    def summary(self) -> str:
        """A few lines for people."""
        return "\n".join(self._summary_lines())

    def to_json(self) -> str:
        """Everything, for programs."""
        head = {k: v for k, v in vars(self).items() if k not in ("rows", "settings", "pairs")}
        head |= {"settings": dict(self.settings), "pairs": dict(self.pairs)}
        head |= {"rows": [row.as_dict() for row in self.rows]}
        return json.dumps(head, indent=1, allow_nan=False)

    def _measured(self) -> Iterator[tuple[Similarity, str]]:
        for row in self.rows:
            if row.measures.similarity is not None:
                yield row.measures.similarity, row.name

    def _summary_lines(self) -> Iterator[str]:
        yield f"{self.lora}: {self.transferred} of {len(self.rows)} modules transferred"
        yield f"  from {self.source} to {self.target}"
        yield "  " + ", ".join(f"{name} {value}" for name, value in self.settings.items())
        if self.warning:
            yield f"  {self.warning}"
        copied = Counter(row.reason for row in self.rows if row.status == "copied")
        for reason, count in copied.items():
            yield f"  {count} copied as they were: {reason}"
        noted = Counter(row.reason for row in self.rows if row.status == "moved" and row.reason)
        for reason, count in noted.items():
            yield f"  {count} moved, but {reason}"
        yield from self._similarity_lines()
        yield from self._energy_lines()
        skipped: dict[str, list[str]] = {}
        for row in self.rows:
            if row.status == "skipped":
                skipped.setdefault(row.reason, []).append(row.name)
        if skipped:
            yield f"  {self.count('skipped')} skipped:"
        reasons = [
            f"{', '.join(truncated_list(names, 2))}: {why}" for why, names in skipped.items()
        ]
        yield from (f"    {line}" for line in truncated_list(reasons, _LISTED))
        yield from (f"  {note}" for note in self.notes)
        if self.unknown_keys:
            yield f"  {len(self.unknown_keys)} keys of the file are of no known kind:"
            yield from (f"    {key}" for key in truncated_list(self.unknown_keys, _LISTED))

    def _similarity_lines(self) -> Iterator[str]:
        scored = list(self._measured())
        if not scored:
            return
        worst, name = min(scored, key=lambda pair: pair[0].score)
        middle = median(phi.score for phi, _ in scored)
        chances = [max(phi.left_chance, phi.right_chance) for phi, _ in scored]
        known = [chance for chance in chances if not math.isnan(chance)]
        chance = f"chance alone gives {median(known):.2f}" if known else "of the spectra alone"
        yield f"  similarity: median {middle:.3f}, lowest {worst.score:.3f} ({name}); {chance}"
        below = sum(row.status == "skipped" for row in self.rows if row.measures.similarity)
        if self.transferred and 2 * below > len(scored):
            yield (
                "  Most modules are below the threshold. If blocks were removed here and inserted "
                "there, their numbers no longer tell: ProLoRA Similarity shows it, and pairs by "
                "hand put it right."
            )

    def _energy_lines(self) -> Iterator[str]:
        ranks = [row.rank_out for row in self.rows if row.rank_out]
        if any(row.rank_out and row.rank_in == 0 for row in self.rows):
            yield f"  rank of the result: median {median(ranks):g}, up to {max(ranks)}"
        moved = [row for row in self.rows if row.status == "moved"]
        kept = [row.energy_kept for row in moved if row.energy_kept is not None]
        if kept:
            yield f"  energy kept: median {median(kept):.1%}, lowest {min(kept):.1%}"
        dropped = [row.energy_dropped for row in self.rows if row.energy_dropped > 0]
        if dropped:
            yield f"  the cut to the rank dropped up to {max(dropped):.2%} of a module's energy"


def _no_nan(value: float) -> float | None:
    return None if value != value else value
