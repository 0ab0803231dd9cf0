const form = at("try");
const agent = form.dataset.agent;
const send = form.querySelector("button");
let current = 0;

// The fields of one kind are shown.
function choose() {
  for (const fields of form.querySelectorAll("fieldset")) {
    fields.hidden = fields.disabled = fields.dataset.kind !== at("kind").value;
  }
}

function wanted() {
  const fields = form.querySelector("fieldset:not([hidden])");
  const params = {};
  for (const field of fields.querySelectorAll("[data-param]")) {
    if (field.value.trim()) params[field.dataset.param] = field.value.trim();
  }
  const data = fields.querySelector("textarea").value;
  const type = fields.querySelector("[data-type]").value;
  return { kind: Number(at("kind").value), inputs: data ? [{ data, type }] : [], params };
}

function begin() {
  at("payment").hidden = at("result").hidden = true;
  send.disabled = true;
  return ++current;
}

function end(text, isError = false) {
  say(text, isError);
  at("payment").hidden = true;
  send.disabled = false;
}

function showResult(content, heading = "Result") {
  at("result").querySelector("h3").textContent = heading;
  at("result").querySelector("code").textContent = content;
  at("result").hidden = false;
}

// Signed by an extension (NIP-07), and published: a job request of NIP-90.
async function overNostr({ kind, inputs, params }, mine) {
  say("Waiting for your signature …");
  const tags = inputs.map(({ data, type }) => ["i", data, type]);
  for (const [name, value] of Object.entries(params)) tags.push(["param", name, value]);
  tags.push(["p", agent]);
  const request = await window.nostr.signEvent({ kind, created_at: Math.floor(Date.now() / 1000), content: "", tags });
  watch(request.id, kind, mine, request);
}

// Without an extension: ordered over HTTP, for a key that the relay makes. Its answers are on the relay like any.
async function overHttp(order, mine) {
  say("Sent. Waiting for the agent …");
  const body = JSON.stringify(order);
  const headers = { "content-type": "application/json" };
  const response = await fetch(`/agent/${agent}/jobs`, { method: "POST", headers, body });
  const told = await response.json();
  if (mine !== current) return;
  if (!told.request || told.status === "error") return end(told.error ?? "The relay does not answer.", true);
  watch(told.request, order.kind, mine);
}

// Shows what the agent answers to a request, which is published first if it is given.
function watch(id, kind, mine, request) {
  const socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host);
  const answers = { authors: [agent], kinds: [7000, kind + 1000], "#e": [id] };
  let isOver = false, newest = 0, text = "";
  const finish = (words, isError) => {
    isOver = true;
    socket.close();
    if (mine === current) end(words, isError);
  };
  socket.onopen = () => {
    socket.send(JSON.stringify(["REQ", "answers", answers]));
    if (request) socket.send(JSON.stringify(["EVENT", request]));
    say("Sent. Waiting for the agent …");
  };
  socket.onclose = () => {
    if (!isOver) finish("The connection was lost. The answer is on the relay all the same.", true);
  };
  const handle = (event) => {
    if (isOver || event.created_at < newest) return;
    newest = event.created_at;
    if (event.kind !== 7000) {
      showResult(event.content);
      return finish("Done.");
    }
    const tag = (name) => event.tags.find((each) => each[0] === name) ?? [];
    const [, status, words] = tag("status");
    if (status === "error") return finish(event.content || words || "The agent has failed.", true);
    if (status === "payment-required") {
      if (event.content) showResult(event.content, "The agent says");
      const [, msat, invoice] = tag("amount");
      if (invoice) showInvoice(invoice, Number(msat));
      return;
    }
    at("payment").hidden = true;
    say("The agent works on it …");
    if (status === "partial") showResult((text += event.content), "So far");
  };
  // Stored answers come newest first.
  let stored = [];
  socket.onmessage = ({ data }) => {
    if (mine !== current) return finish();
    const [type, name, value, why] = JSON.parse(data);
    if (type === "OK" && name === id && !value) return finish(why || "The relay refuses the request.", true);
    if (type === "CLOSED") return finish(value || "The relay shows no answers.", true);
    if (type === "EOSE") {
      stored.reverse().forEach(handle);
      stored = undefined;
    }
    if (type === "EVENT") stored ? stored.push(value) : handle(value);
  };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = begin();
  try {
    await (window.nostr ? overNostr : overHttp)(wanted(), mine);
  } catch (error) {
    if (mine === current) end(error.message || "The relay does not answer.", true);
  }
});
at("kind").addEventListener("change", choose);
choose();
form.hidden = false;
// Extensions add theirs after the page has been read.
setTimeout(() => {
  at("signed").textContent = window.nostr
    ? "Your extension signs the request."
    : "Without a Nostr extension (NIP-07) the relay makes a key for this job; what is paid too much for it is nobody's credit.";
}, 300);
