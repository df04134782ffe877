"""Turns a saved workflow (the page's own graph format) into the prompt that the host executes.

ComfyUI's page does this in JavaScript when Queue is pressed. This is the same conversion for tests
and scripts, which have no browser. `tests/harness` compares it with the page's own `graphToPrompt`
on every host.

Limits: subgraphs and group nodes are not supported (the file must also open in a page of 2024), and
prompts with random choices (`{a|b}`) are passed unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Graph = Mapping[str, Any]
Node = Mapping[str, Any]
ObjectInfo = Mapping[str, Mapping[str, Any]]
ApiPrompt = dict[str, dict[str, Any]]

DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a combo of 2026 whose choices bring inputs of their own
WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC})
NOTES = frozenset({"Note", "MarkdownNote"})
PAGE_ONLY = NOTES | {"Reroute", "PrimitiveNode"}
MUTED, BYPASSED = 2, 4
SEEDS = frozenset({"seed", "noise_seed"})
CONTROLS = frozenset({"fixed", "increment", "decrement", "randomize", "increment-wrap"})
UPLOADS = ("image_upload", "video_upload", "animated_image_upload")


class GraphError(ValueError):
    """The workflow cannot be converted for this host; the text says which node and why."""


@dataclass(frozen=True)
class Link:
    """A wire: the node and output that it comes from, and the type of its value."""

    origin: str
    slot: int
    kind: str


@dataclass(frozen=True)
class Slot:
    """A place in a node's `widgets_values`; the name is None for what only the page uses."""

    name: str | None
    default: Any = None
    is_control: bool = False


def to_prompt(graph: Graph, object_info: ObjectInfo) -> ApiPrompt:
    """The API prompt of `graph` on the host that `object_info` describes.

    Raises:
        GraphError: the host does not know a node, or the graph cannot be converted.
    """
    nodes = {str(node["id"]): node for node in graph["nodes"]}
    _refuse_unknown(nodes.values(), object_info)
    wires = _Wires(nodes, _links(graph))
    prompt: ApiPrompt = {}
    for node_id, node in nodes.items():
        if _is_skipped(node):
            continue
        inputs = widget_values(node, object_info)
        for socket in node.get("inputs") or ():
            found = wires.value(socket)
            if found is not None:
                inputs[socket["name"]] = found[0]
        title = node.get("title") or object_info[node["type"]].get("display_name") or node["type"]
        prompt[node_id] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": title},
        }
    return prompt


def widget_values(node: Node, object_info: ObjectInfo) -> dict[str, Any]:
    """The node's own values by input name, whether a wire replaces them or not."""
    slots, saved = widget_slots(object_info[node["type"]]), node.get("widgets_values")
    if isinstance(saved, Mapping):
        return {s.name: saved.get(s.name, s.default) for s in slots if s.name is not None}
    values: dict[str, Any] = {}
    for slot, index in _places(slots, saved or ()):
        if slot.name is not None:
            values[slot.name] = slot.default if index is None else (saved or ())[index]
    return values


def widget_slots(info: Mapping[str, Any]) -> list[Slot]:
    """The slots of a node's `widgets_values` in order, from the host's description of the node."""
    slots: list[Slot] = []
    for group in ("required", "optional"):
        specs = (info.get("input") or {}).get(group) or {}
        names = (info.get("input_order") or {}).get(group) or list(specs)
        wants_upload = False
        for name in names:
            kind, options = _kind_and_options(specs[name])
            wants_upload |= any(options.get(key) for key in UPLOADS)
            if kind not in WIDGET_TYPES or options.get("forceInput"):
                continue
            slots.append(Slot(name, _default(kind, options)))
            if options.get("control_after_generate") or (kind == "INT" and name in SEEDS):
                slots.append(Slot(None, "randomize", is_control=True))
        if wants_upload:  # the page adds its upload button at the end of the group
            slots.append(Slot(None, "image"))
    return slots


def find_node(graph: Graph, wanted: str | int) -> dict[str, Any]:
    """The node with this id, else with this title, else of this type.

    Raises:
        GraphError: there is no such node, or more than one.
    """
    for read in (_id_of, _title_of, _type_of):
        found = [node for node in graph["nodes"] if read(node) == str(wanted)]
        if len(found) == 1:
            node: dict[str, Any] = found[0]
            return node
        if found:
            ids = ", ".join(_id_of(node) for node in found)
            raise GraphError(f"{len(found)} nodes are called {wanted!r}: {ids}; name one by its id")
    raise GraphError(f"no node has the id, title or type {wanted!r}")


def with_widget(
    graph: Graph, object_info: ObjectInfo, node: str | int, widget: str, value: Any
) -> dict[str, Any]:
    """A copy of `graph` in which one widget of one node has another value.

    Raises:
        GraphError: there is no such node or widget.
    """
    changed = copy.deepcopy(dict(graph))
    target = find_node(changed, node)
    saved = target.get("widgets_values")
    if isinstance(saved, dict):
        saved[widget] = value
        return changed
    slots = widget_slots(object_info[target["type"]])
    for slot, index in _places(slots, saved or ()):
        if slot.name == widget and saved is not None and index is not None:
            saved[index] = value
            return changed
    names = [slot.name for slot in slots if slot.name]
    raise GraphError(f"{target['type']} saves no widget {widget!r}; it has {names}")


def prompt_differences(page: ApiPrompt, own: ApiPrompt, object_info: ObjectInfo) -> list[str]:
    """The differences between the page's prompt and ours, a line each; empty if they are equal.

    Inputs that the host does not declare are ignored: the older page adds its upload button.
    """
    found = [f"node {n} is only in the page's prompt" for n in sorted(set(page) - set(own))]
    found += [f"node {n} is only in our prompt" for n in sorted(set(own) - set(page))]
    for node_id in sorted(set(page) & set(own)):
        kind, theirs, ours = page[node_id]["class_type"], page[node_id], own[node_id]
        if kind != ours["class_type"]:
            found.append(f"node {node_id}: {kind} in the page, {ours['class_type']} in ours")
            continue
        declared = object_info[kind]["input"]
        names = [*declared.get("required", ()), *declared.get("optional", ())]
        for name in names:
            values = theirs["inputs"].get(name), ours["inputs"].get(name)
            if values[0] != values[1]:
                found.append(
                    f"node {node_id} ({kind}), {name}: page {values[0]!r}, ours {values[1]!r}"
                )
    return found


def _id_of(node: Node) -> str:
    return str(node["id"])


def _title_of(node: Node) -> str | None:
    return node.get("title")


def _type_of(node: Node) -> str:
    return str(node["type"])


def _places(slots: Sequence[Slot], saved: Sequence[Any]) -> Iterator[tuple[Slot, int | None]]:
    """Each slot with its index in `saved`, or None where the file has no value for it."""
    index = 0
    for slot in slots:
        # A node that a script wrote, or a page with another rule for seeds, may leave it out.
        if slot.is_control and (index >= len(saved) or saved[index] not in CONTROLS):
            continue
        yield slot, index if index < len(saved) else None
        index += 1


def _kind_and_options(spec: Sequence[Any]) -> tuple[str, Mapping[str, Any]]:
    """A combo is a list of choices in the older hosts' answer, ["COMBO", {"options": …}] later."""
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
    if isinstance(spec[0], list):
        return "COMBO", {**options, "options": spec[0]}
    return str(spec[0]), options


def _default(kind: str, options: Mapping[str, Any]) -> Any:
    choices = options.get("options") or [None]
    if kind == DYNAMIC:
        choices = [choice["key"] for choice in choices if choice]
    fallback = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
    return options.get("default", fallback.get(kind, next(iter(choices), None)))


def _is_skipped(node: Node) -> bool:
    return node["type"] in PAGE_ONLY or node.get("mode", 0) in (MUTED, BYPASSED)


def _refuse_unknown(nodes: Iterable[Node], object_info: ObjectInfo) -> None:
    active = (node for node in nodes if not _is_skipped(node))
    unknown = sorted({_type_of(node) for node in active} - set(object_info))
    if unknown:
        raise GraphError(f"nodes that this host does not have: {', '.join(unknown)}")


def _links(graph: Graph) -> dict[int, Link]:
    """Links by number: arrays in the older schema, objects in the newer."""
    links: dict[int, Link] = {}
    for link in graph.get("links") or ():
        if isinstance(link, Mapping):
            wire = Link(str(link["origin_id"]), int(link["origin_slot"]), str(link["type"]))
            links[int(link["id"])] = wire
        else:
            links[int(link[0])] = Link(str(link[1]), int(link[2]), str(link[5]))
    return links


@dataclass(frozen=True)
class _Wires:
    """Follows wires back through reroutes, bypassed nodes and primitives."""

    nodes: Mapping[str, Node]
    links: Mapping[int, Link]

    def value(self, socket: Mapping[str, Any]) -> tuple[Any] | None:
        """What a socket receives, boxed: a reference to a node's output or a primitive's value."""
        link = self._link_of(socket)
        while link is not None:
            origin = self.nodes.get(link.origin)
            if origin is None or origin.get("mode", 0) == MUTED:
                return None
            if origin["type"] == "PrimitiveNode":
                values = origin.get("widgets_values") or ()
                return (values[0],) if values else None
            if origin["type"] == "Reroute":
                link = self._link_of((origin.get("inputs") or [{}])[0])
            elif origin.get("mode", 0) == BYPASSED:
                link = self._through(origin, link.slot, str(socket.get("type", link.kind)))
            else:
                return ([link.origin, link.slot],)
        return None

    def _link_of(self, socket: Mapping[str, Any]) -> Link | None:
        number = socket.get("link")
        return None if number is None else self.links.get(int(number))

    def _through(self, node: Node, slot: int, kind: str) -> Link | None:
        """A bypassed node passes on the input opposite the output, else the first of its type."""
        inputs = list(node.get("inputs") or ())
        opposite = inputs[slot : slot + 1]
        for socket in (*opposite, *inputs):
            if socket.get("type") == kind:
                return self._link_of(socket)
        return None
