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
  const socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host);
  const answers = { authors: [agent], kinds: [7000, kind + 1000], "#e": [request.id] };
  let isOver = false, newest = 0, text = "";
  const finish = (words, isError) => {
    isOver = true;
    socket.close();
    if (mine === current) end(words, isError);
  };
  socket.onopen = () => {
    socket.send(JSON.stringify(["REQ", "answers", answers]));
    socket.send(JSON.stringify(["EVENT", request]));
    say("Sent. Waiting for the agent …");
  };
  socket.onclose = () => {
    if (!isOver) finish("The connection was lost. The answer is on the relay all the same.", true);
  };
  socket.onmessage = ({ data }) => {
    if (mine !== current) return finish();
    const [type, id, value, why] = JSON.parse(data);
    if (type === "OK" && id === request.id && !value) return finish(why || "The relay refuses the request.", true);
    if (type !== "EVENT" || value.created_at < newest) return;
    newest = value.created_at;
    if (value.kind !== 7000) {
      showResult(value.content);
      return finish("Done.");
    }
    const tag = (name) => value.tags.find((each) => each[0] === name) ?? [];
    const [, status, words] = tag("status");
    if (status === "error") return finish(value.content || words || "The agent has failed.", true);
    if (status === "payment-required") {
      if (value.content) showResult(value.content, "The agent says");
      const [, msat, invoice] = tag("amount");
      if (invoice) showInvoice(invoice, Number(msat));
      return;
    }
    at("payment").hidden = true;
    say("The agent works on it …");
    if (status === "partial") showResult((text += value.content), "So far");
  };
}

// Without an extension: ordered over HTTP, for a key that the relay makes.
async function overHttp(order, mine) {
  say("Sent. Waiting for the agent …");
  const url = `/agent/${agent}/jobs`;
  let authorization;
  while (mine === current) {
    const headers = { "content-type": "application/json", ...(authorization && { authorization }) };
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(order) });
    const told = await response.json();
    if (mine !== current) return;
    if (response.status === 402) {
      if (told.content) showResult(told.content, "The agent says");
      const preimage = await new Promise((resolve) => showInvoice(told.invoice, told.amount_msat, resolve));
      if (!preimage) return end("Your wallet does not tell the preimage, which shows that you have paid.", true);
      authorization = `L402 ${told.token}:${preimage}`;
    } else if (response.status === 202) {
      authorization ??= `L402 ${told.token}:`;
      say("The agent works on it …");
      if (told.content) showResult(told.content, "So far");
      await new Promise((resolve) => setTimeout(resolve, 1000));
    } else if (response.ok) {
      showResult(told.result);
      return end("Done.");
    } else {
      return end(told.error ?? "The relay does not answer.", true);
    }
  }
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
    : form.dataset.paid === "true" && !window.webln
      ? "Without a Nostr extension (NIP-07) the relay signs for you. Jobs that cost something need one, or a wallet extension (WebLN)."
      : "Without a Nostr extension (NIP-07) the relay makes a key for this job.";
}, 300);
