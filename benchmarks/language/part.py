"""Trains and measures what is missing, a line a row, a way and a seed."""

import time
from collections.abc import Callable
from statistics import mean

import torch
from transformers import LlamaForCausalLM

from benchmarks.evidence.results import Results

from .rows import ALIKE, ROWS, Case, Way
from .setting import MODELS, QUICK, WHOLE, Setting, lower_of
from .train import MODULES, open_model
from .upper import FIRST, loss_of

_QUICK_ROWS = ("copy", "full")
_BOTH_WAYS = (("source", "target"), ("target", "source"))
KEYS, COLUMNS = ("row", "way", "seed"), ("loss", "rouge", "other", "drift", "seconds")


def results_of(setting: Setting) -> Results:
    return Results(setting.results, KEYS, COLUMNS)


def run(quick: bool) -> None:
    """Measures what is missing: one way after the other, a row after the other."""
    setting = QUICK if quick else WHOLE
    ways = [Way(*ends, setting) for ends in (_BOTH_WAYS[:1] if quick else _BOTH_WAYS)]
    table = results_of(setting)
    for name in MODELS:
        _measure_model(table, name, setting)
    for way in ways:
        cases = [Case(way, seed) for seed in setting.seeds]
        for case in cases:
            _measure(table, "retrained", case, lambda case=case: _retrained(case))
        for row in _QUICK_ROWS if quick else ROWS:
            for case in cases[:1] if row in ALIKE else cases:
                _measure(table, row, case, lambda case=case, row=row: case.measure(row))
    if quick:
        for line in table.rows():
            print(line)


def _measure_model(table: Results, name: str, setting: Setting) -> None:
    """A model without a LoRA; beside it the loss of the text that the target was tuned on.

    Its drift is the mean of ||W_t - W_s|| / ||W_s|| over the matrices that LoRAs are on.
    """
    way = next(f"{source} to {target}" for source, target in _BOTH_WAYS if target == name)
    if table.known("none", way, "-"):
        return
    start = time.monotonic()
    model = open_model(setting.base(name))
    values = {**setting.measure(model, name), "drift": _drift(model, setting)}
    table.add("none", way, "-", **values, seconds=time.monotonic() - start)
    table.add("reference text", way, "-", other=_loss(setting, name))


def _drift(model: LlamaForCausalLM, setting: Setting) -> float:
    before = open_model(setting.base("source")).state_dict()
    drifts = []
    for key, weight in model.state_dict().items():
        is_upper = ".layers." in key and int(key.split(".")[2]) >= FIRST
        if is_upper and key.endswith(tuple(f"{module}.weight" for module in MODULES)):
            drifts.append(float((weight - before[key]).norm() / before[key].norm()))
    return mean(drifts)


def _loss(setting: Setting, name: str) -> float:
    model = open_model(setting.base(name))
    with torch.inference_mode():
        return float(loss_of(model, *lower_of(setting, name, "reference")))


def _retrained(case: Case) -> dict[str, float]:
    setting, target = case.way.setting, case.way.target
    return setting.measure(setting.with_lora(target, case.seed), target)


def _measure(table: Results, row: str, case: Case, measure: Callable[[], dict[str, float]]) -> None:
    if table.known(row, case.way.name, case.seed):
        return
    start = time.monotonic()
    values = measure()
    table.add(row, case.way.name, case.seed, **values, seconds=time.monotonic() - start)
    print(f"language: {row}, {case.way.name}, seed {case.seed}: {values}", flush=True)
