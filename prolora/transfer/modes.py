"""The modes of a transfer: a row each, and all that tells one from another."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from ..algebra.kept import Forgetful
from ..algebra.maps import PROJECTION_MODES
from ..errors import ProLoRAError
from .maps import ArbitrationMaps, Maps, SubspaceMaps


@dataclass(frozen=True)
class Mode:
    """A way to move an update.

    Attributes:
        name: as a user chooses it.
        says: what it does, for the user who chooses.
        source: the paper and the equation.
        provider: the subspace energy, and what is kept of earlier jobs -> where its maps come from;
            None for a mode that moves every update as it is.
        rank: of the result, where no rank is chosen and the adapter's family has none; 0 for the
            smallest that keeps 99 % of the energy.
        crosses_widths: whether it goes to a weight of another width.
        as_it_is: whether what moves keeps the file's own tensors, if loaders read them.
        keeps_a_share: whether the result is a part of the update, so that its energy is a share.
        needs_recording: whether the weights alone do not suffice.
        warning: what one would not expect of a LoRA that was moved so.
    """

    name: str
    says: str
    source: str
    provider: Callable[[float, Forgetful], Maps] | None
    rank: int = 0
    crosses_widths: bool = False
    as_it_is: bool = False
    keeps_a_share: bool = True
    needs_recording: bool = False
    warning: str = ""


# Without a recording nothing that was measured is better than a copy (docs/evidence.md).
AUTO, CALIBRATED, BY_WEIGHTS = "auto", "calibrated", "alike"


def _without_recording(energy: float, kept: Forgetful) -> NoReturn:
    raise ProLoRAError(
        "Mode calibrated needs a recording of the source. Connect one (Record Source LoRA or Load "
        f"Recording), or choose mode {BY_WEIGHTS}, which needs the weights alone."
    )


_PROLORA = "Farhadzadeh et al., ProLoRA, ICML 2025, arXiv 2506.04244"

_ROWS = (
    Mode(
        AUTO,
        f"{CALIBRATED} where there is a recording, else {BY_WEIGHTS}",
        "see those",
        partial(SubspaceMaps, PROJECTION_MODES[BY_WEIGHTS]),
    ),
    Mode(
        CALIBRATED,
        "listens to the target too, by a recording of the source",
        "ridge regression on the read-outs of the LoRA, see recording/calibrated.py",
        _without_recording,
        keeps_a_share=False,
        needs_recording=True,
    ),
    Mode(
        BY_WEIGHTS,
        "as it is, wherever both weights are alike",
        f"{_PROLORA}: Eq. 1 alone",
        partial(SubspaceMaps, PROJECTION_MODES[BY_WEIGHTS]),
        as_it_is=True,
    ),
    Mode(
        "full",
        "all of the LoRA, each part to the target's own",
        f"{_PROLORA}: Eq. 3 and the two mixed quadrants that Eq. 2 drops",
        partial(SubspaceMaps, PROJECTION_MODES["full"]),
    ),
    Mode(
        "prolora",
        "the paper's, without the mixed parts",
        f"{_PROLORA}: Eq. 3",
        partial(SubspaceMaps, PROJECTION_MODES["prolora"]),
    ),
    Mode(
        "subspace",
        "the leading part only",
        "LoRA-X, ICLR 2025, arXiv 2501.16559",
        partial(SubspaceMaps, PROJECTION_MODES["subspace"]),
    ),
    Mode(
        "cross_width",
        "full, also between other widths; experimental, mostly needs threshold 0",
        "LoRA-X, sec. 4.2.2, and Cross-LoRA, arXiv 2508.05232",
        partial(SubspaceMaps, PROJECTION_MODES["cross_width"]),
        crosses_widths=True,
    ),
    Mode(
        "casa",
        "for distilled targets, takes back a part of the models' difference; at strength 1 only",
        "CASA, ICML 2026, arXiv 2605.01929",
        ArbitrationMaps,
        rank=32,  # to which its authors cut their result, which is of full rank
        keeps_a_share=False,
        warning="Mode casa: the result takes back a part of what tells the two models apart, which "
        "is right at strength 1 only.",
    ),
    Mode("copy", "as it is, to compare", "the baseline", None, as_it_is=True),
)
MODES = {mode.name: mode for mode in _ROWS}
# What saved graphs and scripts may still say.
RENAMED = {"align": "cross_width"}


# The mode to advise where widths differ.
CROSSING = next(mode.name for mode in _ROWS if mode.crosses_widths)


def mode_named(name: str) -> Mode:
    """The mode of a name, or of the name that it had before.

    Raises:
        ProLoRAError: there is none.
    """
    found = MODES.get(RENAMED.get(name, name))
    if found is None:
        raise ProLoRAError(f"There is no mode {name!r}. Choose one of: {', '.join(MODES)}.")
    return found


def describe_modes(between: str = " ") -> str:
    """What each mode does, a sentence each, for people.

    Args:
        between: two sentences.
    """
    return between.join(f"{mode.name}: {mode.says}." for mode in _ROWS)
