"""Prompts in a line each, and a recording of a LoRA that has modules in the text encoder."""

import json

import pytest

from .prompts import PromptBuilder, out
from .small_sd15 import LORA, SOURCE, TARGET

pytestmark = pytest.mark.host

TEXT = "TRIGGER, a lighthouse\n\n  a cat on a sofa \nTRIGGER: two horses"


def prompts(graph: PromptBuilder, model: list, text: str = TEXT, words: str = "ink style") -> list:
    return graph.node("ProLoRAPrompts", clip=out(model, 1), text=text, trigger_words=words)


def recorded(graph: PromptBuilder, model: list, positive: list, **inputs) -> list:
    empty = graph.node("EmptyLatentImage", width=64, height=64, batch_size=4)
    negative = graph.node("CLIPTextEncode", clip=out(model, 1), text="")
    source = graph.source(LORA, source_checkpoint=SOURCE)
    given = {"positive": positive, "latent_image": empty, "negative": negative, "cfg": 3.0}
    given |= {"samples": 4, "steps": 2, "levels": 2, "scheduler": "normal"}
    return graph.record(source, model, **(given | inputs))


def texts(client, graph: PromptBuilder, *nodes: list) -> list[str]:
    client.free()
    done = client.queue(graph.prompt)
    return [done.of(node[0])["text"][0] for node in nodes]


@pytest.mark.parametrize("words", ["ink style", ""])
def test_each_line_is_what_the_hosts_node_makes_of_it(client, sd15, graph, words):
    model = graph.checkpoint(SOURCE)
    lines = ["a lighthouse", "a cat on a sofa", "two horses"]
    if words:
        lines = ["ink style, a lighthouse", "a cat on a sofa", "ink style: two horses"]
    probe = graph.node(
        "ProbeSameText",
        conditioning=prompts(graph, model, words=words),
        clip=out(model, 1),
        texts="\n".join(lines),
    )
    figures = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    assert figures["texts"] == lines
    assert figures["same"] == [True] * 3
    assert figures["first like second"] is False


def test_modules_of_the_text_encoder(client, sd15, graph):
    model = graph.checkpoint(SOURCE)
    recording = recorded(graph, model, prompts(graph, model), clip=out(model, 1))
    target = graph.checkpoint(TARGET)
    source = graph.source(
        LORA, source_checkpoint="(the connected source_model)", recording=recording
    )
    moved = graph.transfer(source, target, clip=out(target, 1), recording=recording, mode="auto")
    refined = graph.refine(target, moved, recording, steps=2)
    graph.save(refined, "loras/text_and_model")
    info, summary, said = texts(client, graph, recording, moved, refined)
    assert "4 samples of 3 prompts" in info
    assert "8 of 8 modules heard, 2 of them in the text encoder" in info
    assert "8 of 8 modules transferred" in summary
    assert "calibrated by 8 read-outs" in summary
    assert "6 of 8 modules refined" in said


def test_texts_that_are_not_known(client, sd15, graph):
    model = graph.checkpoint(SOURCE)
    plain = graph.node("CLIPTextEncode", clip=out(model, 1), text="a lighthouse")
    recording = recorded(graph, model, plain, clip=out(model, 1))
    graph.node("ProbeText", text=out(recording, 1))
    (info,) = texts(client, graph, recording)
    assert "6 of 8 modules heard" in info
    assert "2 not heard, the prompts' texts are not known: lora_te" in info
