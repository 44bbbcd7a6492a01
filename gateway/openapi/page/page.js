// The page reads the OpenAPI document of its gateway, shows one method at a time and calls
// it. What a person types, a token among it, stays in memory.
"use strict";

const $ = (id) => document.getElementById(id);
const documentURL = document.body.dataset.document;
const verbs = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];
const shownAtMost = 1 << 20; // characters of an answer

let api = {};
let operations = []; // {id, verb, path, op, service, name}
let token = ""; // of the next calls
let stop = () => {}; // ends the call that runs

/* Elements */

// h makes an element. Attributes that are false or undefined are left out, functions listen.
function h(name, attributes, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") e.addEventListener(key, value);
    else if (value !== false && value !== undefined) e.setAttribute(key, value === true ? "" : value);
  }
  e.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== ""));
  return e;
}

// prose shows the text of a comment: paragraphs, with `code` in them.
function prose(text) {
  if (!text) return "";
  const inline = (p) => p.split(/`([^`]+)`/).map((part, i) => (i % 2 ? h("code", {}, part) : part));
  return h("div", { class: "prose" }, text.split(/\n{2,}/).map((p) => h("p", {}, inline(p))));
}

const last = (name) => name.slice(name.lastIndexOf(".") + 1);
const link = (kind, name) => "#" + kind + "/" + encodeURIComponent(name);
const badge = (it) => (it.deprecated ? h("span", { class: "badge" }, "deprecated") : "");

/* Reading the document */

function index(doc) {
  const all = [];
  for (const [path, item] of Object.entries(doc.paths)) {
    const add = (verb, op) => {
      const method = (op["x-grpc-method"] ?? op.operationId).split("/").pop();
      all.push({ id: op.operationId, verb: verb.toUpperCase(), path, op, service: op.tags[0], name: method, mark: op["x-websocket"] ? "WS" : verb.toUpperCase() });
    };
    for (const verb of verbs) if (item[verb]) add(verb, item[verb]);
    for (const [verb, op] of Object.entries(item["x-operations"] ?? {})) add(verb, op);
  }
  return all;
}

const nameOf = (schema) => schema?.$ref?.slice("#/components/schemas/".length);
const resolve = (schema) => (schema?.$ref ? { ...api.components.schemas[nameOf(schema)], ...schema, $ref: undefined } : schema ?? {});
// inner is the schema whose fields make up the value: that of an element, or of a map's value.
const inner = (schema) => (schema?.items && nameOf(schema) === undefined ? schema.items : schema?.additionalProperties ?? schema);

function typeOf(schema) {
  const name = nameOf(schema);
  if (name) {
    if (name.startsWith("google.protobuf.")) return last(name);
    return h("a", { href: link("type", name) }, last(name));
  }
  if (schema.items) return h("span", {}, "array of ", typeOf(schema.items));
  if (schema.additionalProperties) return h("span", {}, "map to ", typeOf(schema.additionalProperties));
  if (schema.contentEncoding) return "base64 string";
  if (!schema.type) return "any value";
  return schema.format ?? [].concat(schema.type).filter((t) => t !== "null").join(" or ");
}

const hasFields = (schema) => Object.keys(resolve(inner(schema)).properties ?? {}).length > 0 && !nameOf(inner(schema))?.startsWith("google.protobuf.");

function field(name, schema, need, where, description) {
  const full = resolve(inner(schema));
  const item = h("li", {},
    h("div", { class: "head" },
      h("code", { class: schema.deprecated && "old" }, name),
      h("span", { class: "type" }, typeOf(schema)),
      need ? h("span", { class: "need" }, need) : "",
      where ? h("span", { class: "type" }, where) : "",
      schema.readOnly ? h("span", { class: "type" }, "in answers only") : "",
      badge(schema)),
    prose(description ?? schema.description));
  if (full.enum) item.append(h("p", { class: "values" }, full.enum.join(" · ")));
  if (hasFields(schema)) {
    const more = h("details", { toggle: () => more.open && more.childElementCount === 1 && more.append(fields(full)) }, h("summary", {}, "Fields", h("span", { class: "hidden" }, " of " + name)));
    item.append(more);
  }
  return item;
}

// fields lists the fields of an object; those of inner objects are made when they are opened.
function fields(schema) {
  const full = resolve(schema);
  const required = full.required ?? [];
  return h("ul", { class: "fields" }, Object.entries(full.properties ?? {}).map(([name, s]) => field(name, s, required.includes(name) && "required")));
}

function schemaView(schema) {
  if (!schema) return "";
  const kind = h("p", { class: "quiet" }, typeOf(schema));
  const full = resolve(inner(schema));
  return [kind, hasFields(schema) ? fields(inner(schema)) : h("div", {}, prose(full.description), full.enum ? h("p", { class: "values" }, full.enum.join(" · ")) : "")];
}

/* Views */

function overview() {
  const commented = operations.some((o) => o.op.summary);
  return [
    h("h1", { tabindex: -1 }, api.info.title),
    prose(api.info.description),
    operations.length === 0 ? h("p", { class: "note" }, "No method is let out. Name the services that callers may use in the gateway's allow list.") : "",
    operations.length > 0 && !commented ? h("p", { class: "note" },
      "The methods have no descriptions, since gRPC reflection carries no comments. Give the gateway a descriptor set that has them: ",
      h("code", {}, "buf build -o api.binpb"), " or ", h("code", {}, "protoc --include_imports --include_source_info -o api.binpb"), ".") : "",
    h("div", { class: "services" }, (api.tags ?? []).map((tag) => [
      h("h2", {}, h("a", { href: link("service", tag.name) }, tag.name)), prose(firstParagraph(tag.description)), methodList(tag.name)])),
  ];
}

const firstParagraph = (text) => text?.split("\n\n")[0];

const methodList = (service) => h("ul", { class: "methods" }, operations.filter((o) => o.service === service).map((o) =>
  h("li", {}, h("a", { href: link("method", o.id) },
    h("span", { class: "verb" }, o.mark), h("span", { class: "name" }, o.name), h("span", { class: "sum quiet" }, o.op.summary ?? o.path)))));

const back = () => h("span", { class: "back" }, h("a", { href: "#" }, "All methods"), " / ");

function serviceView(name) {
  const tag = api.tags?.find((t) => t.name === name);
  if (!tag) return missing();
  return [h("p", { class: "crumb" }, back(), "Service"), h("h1", { tabindex: -1 }, name), prose(tag.description), h("h2", {}, "Methods"), methodList(name)];
}

function typeView(name) {
  const schema = api.components.schemas[name];
  if (!schema) return missing();
  return [
    h("p", { class: "crumb" }, back(), schema.enum ? "Enum" : "Message"),
    h("h1", { tabindex: -1 }, last(name), badge(schema)), h("p", { class: "line quiet" }, name), prose(schema.description),
    schema.properties ? [h("h2", {}, "Fields"), fields(schema)] : "",
    schema.enum ? [h("h2", {}, "Values"), h("ul", { class: "fields" }, schema.enum.map((v) => h("li", {}, h("code", {}, v))))] : "",
  ];
}

const missing = () => [h("h1", { tabindex: -1 }, "Not in this API"), h("p", {}, "It may have been renamed. ", h("a", { href: "#" }, "All methods"))];

function methodView(o) {
  const { op } = o;
  const socket = op["x-websocket"];
  const body = op.requestBody?.content["application/json"];
  const parameters = op.parameters ?? [];
  const [media] = Object.values(op.responses["200"]?.content ?? {});
  const answer = socket?.receive.schema ?? media?.["x-item-schema"] ?? media?.schema;
  return h("div", { class: "pair" },
    h("div", { class: "about" },
      h("p", { class: "crumb" }, back(), h("a", { href: link("service", o.service) }, o.service)),
      h("h1", { tabindex: -1 }, o.name, badge(op)),
      h("p", { class: "line" }, h("b", {}, socket ? "WebSocket" : o.verb), o.path),
      prose(op.description ?? op.summary)),
    tryPanel(o),
    h("div", { class: "docs" },
      parameters.length ? [h("h2", {}, "Parameters"), h("ul", { class: "fields" }, parameters.map((p) => {
        const schema = p.schema ?? p.content["application/json"].schema;
        return field(p.name, { ...schema, deprecated: p.deprecated }, p.required && "required", "in the " + p.in, p.description ?? "");
      }))] : "",
      body ? [h("h2", {}, "Body"), prose(op.requestBody.description), schemaView(body.schema)] : "",
      socket ? [h("h2", {}, "Messages to send"), schemaView(socket.send.schema)] : "",
      h("h2", {}, socket || media?.["x-item-schema"] ? "Messages of the answer" : "Answer"), schemaView(answer),
      h("h2", {}, "Errors"), h("p", {}, h("a", { href: link("type", "gateway-problem") }, "Problem details"), h("span", { class: "quiet" }, " (RFC 9457)"))));
}

/* Trying a call */

function input(p, id) {
  const schema = p.schema ?? p.content["application/json"].schema;
  const full = resolve(schema);
  const example = p.example ?? full.examples?.[0] ?? p.content?.["application/json"].example;
  const text = p.content ? JSON.stringify(example) : full.items ? (example ?? []).join("\n") : full.additionalProperties ? Object.entries(example ?? {}).map((e) => e.join("=")).join("\n") : String(example ?? "");
  const common = { id, "data-name": p.name, required: p.in === "path" && !spans(p), autocomplete: "off", spellcheck: "false" };
  const choices = full.enum ?? (full.type === "boolean" ? ["true", "false"] : undefined);
  if (choices) {
    return h("select", common, p.required ? "" : h("option", { value: "" }, "not set"), choices.map((c) => h("option", { selected: p.required && c === text }, c)));
  }
  if (!p.content && (full.items || full.additionalProperties)) {
    return h("textarea", { ...common, rows: 2, placeholder: text }, p.required ? text : "");
  }
  return h("input", { ...common, type: "text", placeholder: text, value: p.required ? text : undefined });
}

function row(p, id) {
  const full = resolve(p.schema);
  const how = p.content ? "JSON" : full.items ? "one a line" : full.additionalProperties ? "key=value, one a line" : "";
  return h("div", { class: "row" }, h("label", { for: id }, p.name, how ? h("small", {}, " " + how) : ""), input(p, id));
}

function tryPanel(o) {
  const { op } = o;
  const socket = op["x-websocket"];
  const media = socket?.send ?? op.requestBody?.content["application/json"];
  const parameters = op.parameters ?? [];
  const rows = parameters.map((p, i) => row(p, "p" + i));
  const needed = rows.filter((_, i) => parameters[i].required);
  const other = rows.filter((_, i) => !parameters[i].required);
  const body = media && h("textarea", { id: "body", rows: Math.min(14, Math.max(3, pretty(media.example).split("\n").length)), spellcheck: "false", "aria-describedby": "wrong" }, socket ? JSON.stringify(media.example) : pretty(media.example));
  const wrong = h("p", { class: "wrong", id: "wrong", role: "alert" });
  const curl = h("pre", { class: "curl", tabindex: 0, role: "region", "aria-label": "curl command" });
  // A browser sends no token with a WebSocket.
  const secret = h("input", { id: "token", type: "password", autocomplete: "off", value: token, input: () => { token = secret.value.trim(); update(); } });
  const send = h("button", { class: "first", type: "submit" }, "Send");
  const cancel = h("button", { type: "button", hidden: true, click: () => stop() }, "Cancel");
  const copied = h("span", { class: "hidden", role: "status" });
  const answer = h("div", { class: "answer", hidden: true });
  const status = h("p", { class: "status", "aria-live": "polite" });

  const form = h("form", { novalidate: true, input: () => update(), keydown: (e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) form.requestSubmit(); }, submit: (e) => { e.preventDefault(); run(); } },
    needed,
    other.length > 4 ? h("details", { class: "more" }, h("summary", {}, counted(other.length, "optional parameter")), other) : other,
    body ? h("div", { class: "row" }, h("label", { for: "body" }, socket ? "Messages" : "Body", h("small", {}, socket ? " JSON, one a line" : " JSON")), body, wrong) : "",
    api.components.securitySchemes?.bearer && !socket ? h("div", { class: "row" }, h("label", { for: "token" }, "Bearer token", h("small", {}, " forgotten when the page is left")), secret) : "",
    h("div", { class: "buttons" }, send, cancel));

  // request is what the form says: {url, init}.
  const request = () => {
    let path = o.path;
    const query = [];
    for (const [i, p] of parameters.entries()) {
      const value = rows[i].querySelector("[data-name]").value;
      if (p.in === "path") {
        const segments = spans(p) ? value.split("/") : [value];
        path = path.replace("{" + p.name + "}", segments.map(encodeURIComponent).join("/"));
        continue;
      }
      if (value === "") continue;
      const full = resolve(p.schema);
      const lines = !p.content && (full.items || full.additionalProperties) ? value.split("\n").filter((l) => l !== "") : [value];
      for (const l of lines) {
        const at = p.schema && full.additionalProperties ? l.indexOf("=") : -1;
        query.push(at < 0 ? [p.name, l] : [`${p.name}[${l.slice(0, at)}]`, l.slice(at + 1)]);
      }
    }
    if (query.length) path += "?" + query.map((pair) => pair.map(encodeURIComponent).join("=")).join("&");
    const headers = {};
    if (streams(op)) headers.Accept = "application/x-ndjson";
    if (body && !socket) headers["Content-Type"] = "application/json";
    if (token) headers.Authorization = "Bearer " + token;
    return { url: path, init: { method: o.verb === "*" ? "POST" : o.verb, headers, body: body && !socket ? body.value : undefined } };
  };

  const update = () => {
    const { url, init } = request();
    curl.textContent = socket ? `websocat ${quote(location.origin.replace(/^http/, "ws") + url)}` : curlOf(url, init);
    let error = "";
    if (body && body.value.trim() !== "") {
      try { for (const text of socket ? body.value.split("\n").filter((l) => l.trim()) : [body.value]) JSON.parse(text); } catch (e) { error = "This is not JSON: " + e.message; }
    }
    if (wrong.textContent !== error) wrong.textContent = error;
    body?.setAttribute("aria-invalid", error !== "");
  };

  const run = async () => {
    const empty = rows.map((r) => r.querySelector("[required]")).find((e) => e && e.value === "");
    for (const r of rows) r.querySelector("[data-name]").removeAttribute("aria-invalid");
    answer.hidden = false;
    status.className = "status";
    if (empty) {
      empty.setAttribute("aria-invalid", "true");
      status.textContent = `${empty.dataset.name} is empty: it is part of the path.`;
      empty.focus();
      return;
    }
    stop();
    const { url, init } = request();
    const show = display(answer, status);
    cancel.hidden = false;
    status.textContent = "Waiting for the answer.";
    try {
      await (socket ? converse(url, body.value, show) : call(url, init, show));
    } finally {
      if (show.current()) {
        if (document.activeElement === cancel) send.focus();
        cancel.hidden = true;
      }
    }
  };

  answer.append(status);
  const copy = h("button", { class: "small", type: "button", click: async () => {
    try { await navigator.clipboard.writeText(curl.textContent); copied.textContent = "Copied"; copy.textContent = "Copied"; } catch { copied.textContent = "The browser did not copy"; }
    setTimeout(() => { copy.textContent = "Copy"; copied.textContent = ""; }, 2000);
  } }, "Copy");
  const panel = h("section", { class: "try", "aria-labelledby": "try" }, h("h2", { id: "try" }, "Try it"), form, answer,
    h("div", { class: "split" }, h("h3", {}, "On the command line"), copy), copied, curl);
  update();
  return panel;
}

const counted = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
// spans says that a parameter of the path may have several segments, or none.
const spans = (p) => p.in === "path" && p.schema.type === "string" && !p.schema.pattern && !p.schema.contentEncoding;
const streams = (op) => Boolean(op.responses["200"]?.content?.["application/x-ndjson"]);
const pretty = (value) => JSON.stringify(value, null, 2);
const quote = (text) => "'" + text.replaceAll("'", `'\\''`) + "'";

function curlOf(url, { method, headers, body }) {
  const options = [streamsFrom(headers) && "-N", method !== "GET" && "-X " + method].filter(Boolean);
  const parts = [["curl", ...options, quote(location.origin + url)].join(" ")];
  for (const [name, value] of Object.entries(headers)) parts.push(name === "Authorization" ? '-H "Authorization: Bearer $TOKEN"' : "-H " + quote(`${name}: ${value}`));
  if (body !== undefined) {
    let text = body;
    try { text = JSON.stringify(JSON.parse(body)); } catch { /* as it is typed */ }
    parts.push("-d " + quote(text));
  }
  return parts.join(" \\\n  ");
}

const streamsFrom = (headers) => headers.Accept === "application/x-ndjson";

/* Showing an answer */

// display shows one call, until another one begins.
function display(answer, status) {
  for (const e of [...answer.children]) if (e !== status) e.remove();
  const begun = performance.now();
  const abort = new AbortController();
  let live = true;
  let pre;
  let shown = 0;
  let spoken = 0;
  stop = () => { live = false; abort.abort(); };
  const after = () => {
    const ms = performance.now() - begun;
    return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
  };
  return {
    signal: abort.signal,
    current: () => live || status.isConnected,
    status(text, bad, note) {
      status.className = bad ? "status bad" : "status";
      status.replaceChildren(h("b", {}, text), " ", h("small", {}, [note, after()].filter(Boolean).join(" · ")));
    },
    // progress is spoken by a screen reader, so it changes once a second.
    progress(text) {
      if (performance.now() - spoken < 1000) return;
      spoken = performance.now();
      this.status(text, false);
    },
    headers(list) {
      const text = [...list].map(([name, value]) => `${name}: ${value}`).join("\n");
      answer.append(h("details", {}, h("summary", {}, "Headers"), h("pre", { tabindex: 0, role: "region", "aria-label": "Headers of the answer" }, text)));
    },
    text(text) {
      if (!pre) answer.append(pre = h("pre", { tabindex: 0, role: "region", "aria-label": "Body of the answer" }));
      if (shown >= shownAtMost) return;
      const room = shownAtMost - shown;
      const follow = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 40 && shown > 0;
      pre.append(text.length > room ? text.slice(0, room) + "\n(The rest is not shown.)" : text);
      shown += text.length;
      if (follow) pre.scrollTop = pre.scrollHeight; // a stream, whose end is looked at
    },
  };
}

// call sends the request by fetch.
async function call(url, init, show) {
  let response;
  let head = "";
  let count = 0;
  try {
    response = await fetch(url, { ...init, signal: show.signal, cache: "no-store" });
    head = `${response.status} ${response.statusText}`.trim();
    show.headers(response.headers);
    const type = response.headers.get("Content-Type") ?? "";
    if (type.startsWith("application/x-ndjson")) {
      let failed = false;
      for await (const line of lines(response.body)) {
        count++;
        const value = parsed(line);
        failed = Boolean(value?.error);
        show.text((value === undefined ? line : pretty(value)) + "\n");
        show.progress(`${head}, ${counted(count, "message")} so far`);
      }
      show.status(head, failed || !response.ok, failed ? "ended by an error" : counted(count, "message"));
      return;
    }
    const text = await response.text();
    const value = /\bjson\b/.test(type) ? parsed(text) : undefined;
    if (text !== "") show.text(value === undefined ? text : pretty(value));
    show.status(head, !response.ok, size(text));
  } catch (e) {
    if (e.name === "AbortError") show.status("Cancelled", false, [head, count && counted(count, "message")].filter(Boolean).join(" · "));
    else show.status(head ? "The answer broke off" : "No answer", true, e.message);
  }
}

// converse sends each line as one message of a WebSocket and shows what comes back.
function converse(url, text, show) {
  return new Promise((done) => {
    const socket = new WebSocket(location.origin.replace(/^http/, "ws") + url);
    let count = 0;
    let cancelled = false;
    show.signal.addEventListener("abort", () => { cancelled = true; socket.close(1000); });
    socket.onopen = () => { for (const line of [...text.split("\n").filter((l) => l.trim()), ""]) socket.send(line); };
    socket.onmessage = ({ data }) => {
      count++;
      const value = parsed(data);
      show.text((value === undefined ? data : pretty(value)) + "\n");
      show.progress(`${counted(count, "message")} so far`);
    };
    socket.onclose = ({ code, reason }) => {
      if (cancelled) show.status("Cancelled", false, counted(count, "message"));
      else show.status(code === 1000 ? "Closed" : `Closed with ${code} ${reason}`.trim(), code !== 1000, counted(count, "message"));
      done();
    };
  });
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return undefined; }
}

function size(text) {
  const n = new TextEncoder().encode(text).length;
  return n < 1000 ? `${n} B` : `${(n / 1000).toFixed(1)} kB`;
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line.trim()) yield line;
  }
  if (rest.trim()) yield rest;
}

/* Navigation */

function list() {
  const groups = (api.tags ?? []).map((tag) => {
    const own = operations.filter((o) => o.service === tag.name);
    const items = own.map((o) => {
      // Bindings of one method differ in their paths.
      const path = own.filter((other) => other.name === o.name).length > 1 && h("small", {}, o.path);
      const a = h("a", { href: link("method", o.id), title: o.path }, h("span", { class: "verb" }, o.mark.slice(0, 7)), h("span", { class: o.op.deprecated && "old" }, o.name, path || ""));
      return { li: h("li", {}, a), text: [o.verb, o.path, o.service, o.name, o.op.summary ?? ""].join(" ").toLowerCase() };
    });
    return { e: h("div", {}, h("h2", {}, h("a", { href: link("service", tag.name) }, tag.name)), h("ul", {}, items.map((i) => i.li))), items };
  });
  $("list").replaceChildren(...groups.map((g) => g.e));
  const filter = () => {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const g of groups) {
      let any = false;
      for (const i of g.items) {
        i.li.hidden = !words.every((w) => i.text.includes(w));
        if (!i.li.hidden) { any = true; count++; }
      }
      g.e.hidden = !any;
    }
    $("matches").textContent = words.length ? counted(count, "method") : "";
  };
  $("filter").addEventListener("input", filter);
  $("filter").addEventListener("keydown", (e) => {
    if (e.key === "Enter") $("list").querySelector("li:not([hidden]) a")?.click();
  });
}

function show(focus) {
  stop();
  const at = location.hash.slice(1);
  const slash = at.indexOf("/");
  let name = at.slice(slash + 1);
  try { name = decodeURIComponent(name); } catch { /* as it is */ }
  const kind = slash < 0 ? "" : at.slice(0, slash);
  let view;
  let title = "";
  if (kind === "method") {
    const o = operations.find((other) => other.id === name);
    view = o ? methodView(o) : missing();
    title = o?.name;
  } else if (kind === "service" || kind === "type") {
    view = kind === "service" ? serviceView(name) : typeView(name);
    title = last(name);
  } else {
    view = overview();
  }
  document.body.dataset.view = kind || "home";
  document.title = title ? `${title} · ${api.info.title}` : api.info.title;
  $("main").replaceChildren(...[view].flat(Infinity).filter(Boolean));
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash === location.hash) { a.setAttribute("aria-current", "page"); a.scrollIntoView({ block: "nearest" }); } else a.removeAttribute("aria-current");
  }
  if (focus) {
    window.scrollTo(0, 0);
    $("main").querySelector("h1").focus({ preventScroll: true });
  }
}

async function start() {
  try {
    const response = await fetch(documentURL);
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    api = await response.json();
  } catch (e) {
    $("main").replaceChildren(h("h1", { tabindex: -1 }, "The description cannot be read"),
      h("p", { role: "alert" }, `${documentURL}: ${e.message}. `), h("p", {}, h("button", { type: "button", click: start }, "Try again")));
    return;
  }
  operations = index(api);
  $("title").textContent = api.info.title;
  $("version").textContent = api.info.version;
  list();
  show(false);
}

window.addEventListener("hashchange", () => { if (api.info) show(true); });
document.querySelector(".skip").addEventListener("click", (e) => { e.preventDefault(); $("main").focus(); });
start();
