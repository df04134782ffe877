"""Architectures at their real sizes: loading, key map, namings, pairing, report."""

from collections.abc import Callable

import pytest

from fixtures import inventory

from .architectures import (
    PAGE,
    Measured,
    ask,
    class_shapes,
    measure,
    measured_columns,
    own_columns,
    page,
    without_a_host,
)

pytestmark = pytest.mark.host

KNOWN = {name: inventory.inventory(name) for name in inventory.names()}
# A host of June 2024 knows these.
OLD = {"sd1", "sd2", "sdxl", "ssd-1b", "vega", "koala-700m", "koala-1b", "sd3-medium"}
# Newer than the class that ComfyUI has for it: a class that came with it.
SINCE = {"sd3.5-medium": "GenmoMochi"}


@pytest.fixture(scope="module")
def classes(client) -> set[str]:
    return set(ask(client, "ProbeClasses"))


@pytest.fixture(scope="module")
def newest(classes) -> None:
    missing = sorted({known.host_class for known in KNOWN.values()} - classes)
    if missing:
        pytest.skip(f"this host has no {', '.join(missing)}")


@pytest.fixture(scope="module")
def measured(client, comfy) -> Callable[[str], Measured]:
    found: dict[str, Measured] = {}

    def once(name: str) -> Measured:
        if name not in found:
            found[name] = measure(client, comfy.folder, name)
        return found[name]

    return once


@pytest.mark.parametrize("name", KNOWN)
def test_a_lora_of_every_module(measured, classes, name):
    known, found = KNOWN[name], measured(name)
    if name not in OLD and not {known.host_class, SINCE.get(name, known.host_class)} <= classes:
        pytest.skip(f"this host is too old: {found.refused or f'{found.architecture} to it'}")
    assert not found.refused
    assert found.architecture == known.host_class
    modules = {f"diffusion_model.{key}" for key in known.modules}
    assert set(found.addressed) == modules
    for naming, made in found.namings.items():
        assert made["unpaired"] == made["crossed"] == [], naming
        assert set(made["paired"]) == modules, naming
        lines = made["summary"].splitlines()
        assert " modules transferred: " in lines[0] and "skipped" not in made["summary"]
        assert f"{naming}.safetensors, from " in lines[1] and f"({known.host_class})" in lines[1]


@pytest.mark.usefixtures("newest")
@pytest.mark.parametrize("name", KNOWN)
def test_an_inventory_is_what_the_host_has(client, measured, name):
    """Its class built from the figures, and the one that it finds in the file, agree with it."""
    known = KNOWN[name]
    assert class_shapes(client, known) == known.tensors
    loaded = {key: tuple(shape) for key, shape in measured(name).shapes.items()}
    prefix = "diffusion_model."
    model = {k.removeprefix(prefix): s for k, s in loaded.items() if k.startswith(prefix)}
    assert model == known.tensors


@pytest.mark.usefixtures("newest")
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_text_encoders_are_what_the_host_has(client, name):
    assert class_shapes(client, KNOWN[name], text_encoders=True) == inventory.text_encoders(name)


@pytest.mark.usefixtures("newest")
@pytest.mark.parametrize("name", KNOWN)
def test_the_command_line_has_the_host_s_names(measured, name):
    """For the same weights and parts; of one weight's names the host keeps the last."""
    host, ours = measured(name).key_map, without_a_host(KNOWN[name])
    assert ours.key_map == host
    assert {k: list(ours.weights.shape(k)) for k in ours.weights} == measured(name).shapes
    assert inventory.names_digest(host) == KNOWN[name].names
    for ref in set(host.values()):
        orders = [
            [n for n, place in names.items() if place == ref] for names in (host, ours.key_map)
        ]
        assert orders[0] == orders[1] or ".label_emb." in ref.key  # the host has those in a set


@pytest.mark.usefixtures("newest")
def test_the_page(measured):
    rows = [own_columns(head) | measured_columns(head, measured(n)) for n, head in KNOWN.items()]
    assert page(rows) == PAGE.read_text(encoding="utf-8"), "make architectures writes it anew"
