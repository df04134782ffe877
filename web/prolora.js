// What the nodes of ProLoRA say stands on them: a result until the next one, and meanwhile how far
// a job is, or why it stopped. Results are kept in the graph, so they are there after a reload and
// in a saved file.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const TEXT = "prolora_text"; // the property of a node, and its widget
const HEIGHT = 100; // of the widget at least: six lines
const ENDS = ["executing", "execution_success", "execution_error", "execution_interrupted"];
const ERROR = "ProLoRAError"; // whose message is written for an artist

const graph = () => app.rootGraph ?? app.graph; // a host from June 2024 has no subgraphs

/** Whether a node says something: it gives a text, or is the end of a graph. */
function speaks({ name, output, output_node }) {
  return name.startsWith("ProLoRA") && (output_node || output.includes("STRING"));
}

/** The node of the graph in front by its id in a prompt, "7:3" for 3 in the subgraph 7. */
function nodeAt(path) {
  let [inside, node] = [graph(), null];
  for (const id of String(path).split(":")) {
    node = inside?.getNodeById(id);
    inside = node?.subgraph;
  }
  return node;
}

function addWidget(node) {
  const { widget } = app.widgets.STRING(node, TEXT, ["STRING", { multiline: true }], app);
  widget.label = "result";
  widget.serialize = false; // neither a value of the saved graph,
  Object.assign(widget.options, { serialize: false, read_only: true, getMinHeight: () => HEIGHT }); // nor an input
  const area = widget.element ?? widget.inputEl;
  Object.assign(area, { readOnly: true, placeholder: "The result will stand here." });
}

/** Shows the result, or something else for a while. */
function show(node, meanwhile = "") {
  const widget = node?.widgets?.find((widget) => widget.name === TEXT);
  if (!widget) return;
  widget.value = meanwhile || node.properties[TEXT] || "";
  graph().setDirtyCanvas?.(true, false);
}

// Whose prompt it is. A prompt may be of a graph in another tab, whose nodes have the same ids.

const graphOf = new Map(); // prompt id -> a promise of the id of its graph

function isInFront(id) {
  return id === undefined || graph().id === undefined || id === graph().id;
}

/** The id of the graph that a prompt is of; undefined where the host or the graph has none. */
function graphIdOf(prompt) {
  if (!graphOf.has(prompt)) graphOf.set(prompt, askHost(prompt).catch(() => undefined));
  return graphOf.get(prompt);
}

async function askHost(prompt) {
  const queue = await (await api.fetchApi("/queue")).json();
  const running = queue.queue_running.find((entry) => entry[1] === prompt);
  const past = async () => (await (await api.fetchApi(`/history/${prompt}`)).json())[prompt]?.prompt;
  return (running ?? (await past()))?.[3]?.extra_pnginfo?.workflow?.id;
}

// Results

/** Results of graphs that are not in front: graph id -> node id -> text. A reload keeps them. */
const waiting = JSON.parse(sessionStorage.getItem(TEXT) ?? "{}");

function keepWaiting() {
  try {
    sessionStorage.setItem(TEXT, JSON.stringify(waiting));
  } catch {
    // It is full: until a reload they are there all the same.
  }
}

function setResults(texts) {
  for (const [id, text] of Object.entries(texts)) {
    const node = nodeAt(id);
    if (!node?.widgets?.some((widget) => widget.name === TEXT)) continue;
    node.properties[TEXT] = text;
    show(node);
  }
  // The newer pages keep a draft of the graph for a reload, which they renew when told so.
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

async function onExecuted({ detail }) {
  if (!detail.output?.text) return;
  const id = await graphIdOf(detail.prompt_id);
  const texts = { [detail.display_node ?? detail.node]: [detail.output.text].flat().join("\n\n") };
  if (isInFront(id)) return setResults(texts);
  waiting[id] = { ...waiting[id], ...texts };
  keepWaiting();
}

/** Gives a graph that comes to the front the results that it has missed. */
function onGraphInFront() {
  const texts = waiting[graph().id];
  if (!texts) return;
  delete waiting[graph().id];
  setTimeout(() => setResults(texts)); // the page takes no changes while it opens a graph
  keepWaiting();
}

// Progress

let shown = null; // the node that shows it
let turn = 0;

function clearProgress() {
  turn += 1;
  if (shown) show(shown);
  shown = null;
}

async function onProgress({ detail }) {
  clearProgress();
  const mine = turn;
  const id = await graphIdOf(detail.prompt_id);
  if (mine !== turn || !isInFront(id)) return; // the job ended meanwhile, or is of another tab
  shown = nodeAt(detail.node);
  show(shown, detail.text);
}

// Errors: the newer pages hide the sentence behind a button and below a report.

let failed = null; // the node that shows one

async function onError({ detail }) {
  if (detail.exception_type !== ERROR) return;
  const sentence = detail.exception_message.trim();
  app.extensionManager?.toast?.add({ severity: "error", summary: "ProLoRA", detail: sentence });
  if (!isInFront(await graphIdOf(detail.prompt_id))) return;
  failed = nodeAt(detail.node_id);
  show(failed, sentence);
}

function onStart() {
  if (failed) show(failed);
  failed = null;
}

app.registerExtension({
  name: "ProLoRA.Texts",
  setup() {
    api.addEventListener("executed", onExecuted);
    api.addEventListener("prolora.progress", onProgress);
    api.addEventListener("execution_error", onError);
    api.addEventListener("execution_start", onStart);
    for (const end of ENDS) api.addEventListener(end, clearProgress);
  },
  beforeRegisterNodeDef(nodeType, definition) {
    if (!speaks(definition)) return;
    const { onNodeCreated, onConfigure, onSerialize } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      addWidget(this);
    };
    nodeType.prototype.onConfigure = function (...args) {
      onConfigure?.apply(this, args);
      show(this);
    };
    nodeType.prototype.onSerialize = function (saved) {
      onSerialize?.call(this, saved);
      // A host from June 2024 saves every widget, by its place.
      const values = this.widgets?.filter((widget) => widget.serialize !== false).length ?? 0;
      if (saved.widgets_values?.length > values) saved.widgets_values.length = values;
    };
  },
  afterConfigureGraph: onGraphInFront,
});
