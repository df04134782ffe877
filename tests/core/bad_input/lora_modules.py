"""Modules of a LoRA file whose tensors contradict each other, by family."""

import torch

from .case import NAN, Case, Table, module_of_a_lora, ones

UP, DOWN = ones(24, 4), ones(4, 16)
LORA = {"lora_up__weight": UP, "lora_down__weight": DOWN}
LOHA = {
    **{"hada_w1_a": UP, "hada_w1_b": DOWN},
    **{"hada_w2_a": UP, "hada_w2_b": DOWN},
}
GLORA = {
    **{"a1__weight": ones(16, 4), "a2__weight": ones(4, 16)},
    **{"b1__weight": UP, "b2__weight": ones(4, 16)},
}
FOURA = {
    **{"foura_up__weight": UP, "foura_down__weight": DOWN},
    "foura_transform": torch.tensor(1),
}
SQUARE, BUTTERFLY = ones(6, 4, 4), ones(1, 4, 4, 4)


def without(parts: dict[str, torch.Tensor], role: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in parts.items() if key != role}


def case(what: str, words: str, **parts: torch.Tensor) -> Case:
    return Case(what, module_of_a_lora(**parts), words)


OF_LORA = Table(
    "Modules of a LoRA",
    "Load Source LoRA, Load LoRA for Model, Load LoRA Stack for Model, `prolora transfer`, "
    "`prolora batch`, `prolora inspect`",
    (
        case("an up without its down", "no LoRA down", lora_up__weight=UP),
        case("a down without its up", "no LoRA up", lora_down__weight=DOWN),
        case(
            "an up and a down of other ranks",
            "do not multiply",
            **{**LORA, "lora_up__weight": ones(24, 3)},
        ),
        case(
            "a rank of 0", "an empty up", lora_up__weight=ones(24, 0), lora_down__weight=ones(0, 16)
        ),
        case(
            "a vector in the place of a matrix",
            "do not multiply",
            **{**LORA, "lora_up__weight": ones(24)},
        ),
        case(
            "a number in the place of a matrix",
            "a single number",
            **{**LORA, "lora_up__weight": torch.tensor(1.0)},
        ),
        case(
            "a kernel in the up",
            "do not multiply",
            **{**LORA, "lora_up__weight": ones(24, 4, 3, 3)},
        ),
        case("NaN in the up", "NaN or infinity", **{**LORA, "lora_up__weight": UP * NAN}),
        case("infinity in the down", "NaN or infinity", **{**LORA, "lora_down__weight": DOWN / 0}),
        case("an alpha that is NaN", "NaN or infinity", **LORA, alpha=torch.tensor(NAN)),
        case("two numbers as the alpha", "not one number", **LORA, alpha=ones(2)),
        case("quantised factors", "torch.int8", **{**LORA, "lora_up__weight": UP.to(torch.int8)}),
        case("two spellings of one tensor", "spellings", **LORA, lora_B__weight=UP),
        case(
            "a core that does not fit (LoCon)",
            "do not multiply",
            **LORA,
            lora_mid__weight=ones(3, 3, 3, 3),
        ),
        case(
            "a padding that does not fit",
            "reshape_weight",
            **LORA,
            reshape_weight=torch.tensor([24, 20]),
        ),
        case("tensors of two families", "LoHa and LoRA", **LORA, hada_w1_a=UP),
    ),
)

OF_DORA = Table(
    "Modules of a DoRA, of differences",
    OF_LORA.where,
    (
        case(
            "a magnitude for another weight", "but an update of 24", **LORA, dora_scale=ones(100, 1)
        ),
        case(
            "a magnitude that is a matrix", "not one row or column", **LORA, dora_scale=ones(24, 16)
        ),
        case("an empty magnitude", "an empty dora_scale", **LORA, dora_scale=ones(0, 1)),
        case(
            "two magnitudes",
            "two DoRA magnitudes",
            **LORA,
            dora_scale=ones(24, 1),
            magnitude=ones(24),
        ),
        case("a magnitude alone", "no LoRA or other update", dora_scale=ones(24, 1)),
        case("a magnitude that is NaN", "NaN or infinity", **LORA, dora_scale=ones(24, 1) * NAN),
        case(
            "an initial norm of another weight",
            "initial_norm",
            oft_R__weight=ones(4, 6),
            dora_scale=ones(24, 1),
            initial_norm=ones(16),
        ),
        case("an OFT's magnitude beside a LoRA", "not an OFT", **LORA, dora_multiplier=ones(24)),
        case(
            "a magnitude over a full difference",
            "which nothing reads",
            diff=ones(24, 16),
            dora_scale=ones(24),
        ),
        case("a full difference and a LoRA", "LoRA and full difference", **LORA, diff=ones(24, 16)),
        case("an empty difference", "an empty diff", diff=ones(24, 0)),
        case("two changes of one weight", "two changes of one weight", **LORA, set_weight=ones(24)),
        case(
            "two changes of one bias", "two changes of one bias", diff_b=ones(24), b_norm=ones(24)
        ),
        case("the bias of an up without the up", "no LoRA down", lora_B__bias=ones(24)),
        case("a bias that is NaN", "NaN or infinity", diff_b=ones(24) * NAN),
    ),
)

OF_OTHERS = Table(
    "Modules of other families",
    OF_LORA.where,
    (
        case("a LoHa without a factor", "hada_w2_b", **without(LOHA, "hada_w2_b")),
        case("a LoHa of two ranks", "do not multiply", **{**LOHA, "hada_w1_a": ones(24, 3)}),
        case("a LoHa of two sizes", "hada_w2", **{**LOHA, "hada_w2_a": ones(20, 4)}),
        case("a LoHa with half a core", "hada_t", **LOHA, hada_t1=ones(4, 4, 3, 3)),
        case("a LoKr without a factor", "no lokr_w2_b", lokr_w1=ones(2, 2), lokr_w2_a=ones(12, 4)),
        case("a LoKr without a side", "no lokr_w2", lokr_w1=ones(2, 2)),
        case(
            "a LoKr with a side whole and factored",
            "and also a",
            lokr_w1=ones(2, 2),
            lokr_w2=ones(12, 8),
            lokr_w2_a=ones(12, 4),
            lokr_w2_b=ones(4, 8),
        ),
        case("a LoKr whose side is a vector", "no matrix", lokr_w1=ones(2), lokr_w2=ones(12, 8)),
        case("a GLoRA without a factor", "no b2", **without(GLORA, "b2__weight")),
        case(
            "a GLoRA whose factors do not multiply",
            "do not multiply",
            **{**GLORA, "a1__weight": ones(15, 4)},
        ),
        case("a FouRA without its down", "foura_down", **without(FOURA, "foura_down__weight")),
        case(
            "a FouRA of two ranks",
            "do not multiply",
            **{**FOURA, "foura_down__weight": ones(3, 16)},
        ),
        case(
            "a FouRA of 3 x 3 convolutions",
            "linear layers",
            **{**FOURA, "foura_down__weight": ones(4, 16, 3, 3)},
        ),
        case("a gate of another rank", "FouRA gate", **FOURA, foura_gate=ones(5)),
        case(
            "a transform that there is not",
            "neither 0 (DFT) nor 1 (DCT)",
            **{**FOURA, "foura_transform": torch.tensor(2)},
        ),
        case("an OFT whose blocks are not square", "not square", oft_blocks=ones(6, 4, 3)),
        case("an OFT of two kinds", "one only", oft_blocks=SQUARE, oft_R__weight=ones(4, 6)),
        case("an OFT whose rows are no triangles", "not the triangles", oft_R__weight=ones(4, 5)),
        case(
            "an OFT with a part missing",
            "is missing",
            **{"oft_blocks__0": SQUARE, "oft_blocks__2": SQUARE},
        ),
        case(
            "an OFT with a rescale of another weight",
            "rescale",
            oft_blocks=SQUARE,
            rescale=ones(15, 1),
        ),
        case(
            "an OFT with two constraints",
            "not one number",
            oft_blocks=torch.arange(96.0).reshape(6, 4, 4),
            alpha=torch.zeros(2),
        ),
        case("a BOFT without its scale", "no boft_s", boft_R=BUTTERFLY),
        case(
            "a BOFT whose blocks are not square",
            "not stages of square",
            boft_R=ones(1, 4, 4, 3),
            boft_s=ones(16, 1),
        ),
        case(
            "a BOFT of stages that cannot be",
            "a butterfly of 3 stages",
            oft_blocks=ones(3, 6, 4, 4),
        ),
        case("a BOFT with an empty scale", "empty boft_s", boft_R=BUTTERFLY, boft_s=ones(0, 1)),
    ),
)

TABLES = (OF_LORA, OF_DORA, OF_OTHERS)
