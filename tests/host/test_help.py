"""What a user finds: where nodes are listed, help pages, names and tooltips in other languages."""

import json
import re
import urllib.request
from urllib.error import HTTPError

import pytest
from PIL import Image

from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import PACK_NAME

pytestmark = pytest.mark.host

LANGUAGES = ("de", "es", "fr", "ja", "ko", "zh")
MAIN = (
    "ProLoRALoadForModel",
    "ProLoRAStack",
    "ProLoRALoadSource",
    "ProLoRATransfer",
    "ProLoRAApply",
    "ProLoRASave",
)
DOCS, LOCALES = PACK_ROOT / "web" / "docs", PACK_ROOT / "locales"
# Words of the field, and of files, which a translation leaves as they are.
TERMS = ("LoRA", "MODEL", "CLIP", "rank", "JSON", "GB", "TRIGGER", "ComfyUI", "KSampler", "fp16")
NAMED_OTHERWISE = {"KSampler": {"zh": "K采样器", "ja": "Kサンプラー"}}


@pytest.fixture(scope="module")
def nodes(object_info) -> dict:
    return {name: info for name, info in object_info.items() if name.startswith("ProLoRA")}


def inputs_of(info: dict) -> dict:
    groups = ("required", "optional")
    return {name: spec for group in groups for name, spec in info["input"].get(group, {}).items()}


def tooltip_of(spec: list) -> str:
    return spec[1].get("tooltip", "") if len(spec) > 1 else ""


def names_in(language: str) -> dict:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def terms_of(text: str) -> set[str]:
    return {t for t in TERMS if re.search(rf"(?<![A-Za-z]){t}s?(?![A-Za-z])", text)}


def test_the_nodes_are_listed_beside_the_hosts_own_lora_loader(nodes, object_info):
    beside = object_info["LoraLoader"]["category"]
    assert {info["category"] for info in nodes.values()} == {f"{beside}/ProLoRA"}


def test_a_search_finds_the_nodes_by_other_words(nodes, object_info):
    if "search_aliases" not in object_info["LoraLoader"]:
        pytest.skip("a host of that time knows no other words")
    assert all(info["search_aliases"] for info in nodes.values())
    known = {alias.lower() for info in nodes.values() for alias in info["search_aliases"]}
    wanted = ("move", "port", "convert", "migrate", "retarget")
    assert {*(f"{word} lora" for word in wanted), "base model", "ssd-1b"} <= known


def test_every_input_has_a_tooltip(nodes):
    bare = [
        (name, key)
        for name, info in nodes.items()
        for key, spec in inputs_of(info).items()
        if not tooltip_of(spec)
    ]
    assert bare == []


def test_every_node_has_a_help_page_with_its_inputs_a_picture_and_an_example(nodes):
    assert {page.stem for page in DOCS.glob("*.md")} == set(nodes)
    assert {picture.stem for picture in (DOCS / "images").glob("*.jpg")} == set(nodes)
    pages = [*DOCS.glob("*.md"), *DOCS.glob("*/*.md")]
    for page in pages:
        name = page.stem if page.parent == DOCS else page.parent.name
        text = page.read_text(encoding="utf-8")
        rows = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
        outputs = set(nodes[name]["output_name"])
        assert rows == {*inputs_of(nodes[name]), *outputs}, page
        assert f"(images/{name}.jpg)" in text
        assert len(re.findall("^## ", text, re.MULTILINE)) == (3 if outputs else 2)


def test_the_templates_that_a_page_names_are_there():
    pages = [*DOCS.glob("*.md"), *DOCS.glob("*/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"template \*([^*]+)\*", text))
    assert named
    assert named <= {graph.stem for graph in (PACK_ROOT / "workflows").glob("*.json")}


def test_the_pictures_of_the_pages_are_small():
    for path in (DOCS / "images").glob("*.jpg"):
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and 300 <= picture.width <= 1000
        assert path.stat().st_size < 60_000


def test_the_main_nodes_have_help_pages_in_every_language():
    for name in MAIN:
        assert {page.stem for page in (DOCS / name).glob("*.md")} == set(LANGUAGES)


def test_the_host_serves_the_help_pages(comfy):
    for page in ("ProLoRATransfer.md", "ProLoRATransfer/zh.md", "images/ProLoRATransfer.jpg"):
        address = f"{comfy.url}/extensions/{PACK_NAME}/docs/{page}"
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == (DOCS / page).read_bytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_name_is_translated_and_none_is_stale(nodes, language):
    names = names_in(language)
    assert set(names) == set(nodes)
    for name, info in nodes.items():
        said = names[name]
        assert said["display_name"] and said["description"]
        assert set(said["inputs"]) == set(inputs_of(info)), name
        assert set(said.get("outputs", {})) == {str(i) for i in range(len(info["output"]))}, name
        texts = [*said["inputs"].values(), *said.get("outputs", {}).values()]
        assert all(text["name"] and text["tooltip"] for text in texts), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_brace_is_written_as_the_page_reads_it(language):
    """{ } @ and | mean something to the page's translator; {'{'} is a brace."""
    text = (LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")
    told = re.findall(r'": "(.*)"', text)
    assert not any(re.search(r"[{}@|]", re.sub(r"{'[{}]'}", "", line)) for line in told)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_words_of_the_field_stay_as_they_are(nodes, language):
    for name, info in nodes.items():
        said = names_in(language)[name]["inputs"]
        for key, spec in inputs_of(info).items():
            for term in terms_of(tooltip_of(spec)):
                word = NAMED_OTHERWISE.get(term, {}).get(language, term)
                assert word in said[key]["tooltip"], (name, key)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_host_hands_the_names_to_its_page(comfy, language):
    try:
        with urllib.request.urlopen(f"{comfy.url}/i18n") as answer:
            served = json.load(answer)
    except HTTPError as error:
        assert error.code == 404
        pytest.skip("the host of June 2024 has one language")
    assert served[language]["nodeDefs"] == names_in(language)
