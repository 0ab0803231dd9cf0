const { relay, kind } = at("join").dataset;
const submit = at("form").querySelector("button");
let socket, timer;

// An npub (NIP-19) or hexadecimal as hexadecimal; undefined if it is neither. The relay checks the checksum.
function hexOf(text) {
  if (/^[0-9a-f]{64}$/i.test(text)) return text.toLowerCase();
  const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
  const data = text.toLowerCase().match(/^(?:nostr:)?npub1([a-z0-9]{58})$/)?.[1];
  if (!data || [...data].some((letter) => !letters.includes(letter))) return undefined;
  const bits = [...data.slice(0, 52)].map((letter) => letters.indexOf(letter).toString(2).padStart(5, "0")).join("");
  return bits.slice(0, 256).match(/.{4}/g).map((nibble) => parseInt(nibble, 2).toString(16)).join("");
}

// Waits for the event by which the relay admits the key (NIP-43).
function watch(hex, found) {
  clearTimeout(timer);
  if (socket) {
    socket.onclose = null;
    socket.close();
  }
  socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host);
  socket.onopen = () => {
    const filter = { authors: [relay], kinds: [8000, 8001], "#p": [hex] };
    socket.send(JSON.stringify(["REQ", "member", filter]));
  };
  let newest, isRead = false;
  socket.onmessage = ({ data }) => {
    const [type, id, event] = JSON.parse(data);
    if (id === "job") {
      const why = type === "EVENT" && event.tags.find((tag) => tag[0] === "status" && tag[1] === "error");
      if (!why) return;
      sessionStorage.removeItem(hex);
      return say(event.content || why[2] || "The relay has failed.", true);
    }
    if (type === "EVENT" && !(newest?.created_at >= event.created_at)) newest = event;
    // A relay that does not answer is asked for an invoice all the same.
    isRead ||= type === "EOSE" || type === "CLOSED";
    if (isRead) found(newest?.kind === 8000 && !isExpired(newest));
  };
  socket.onclose = () => {
    timer = setTimeout(() => watch(hex, found), 3000);
  };
}

function isExpired(event) {
  const expiration = event.tags.find((tag) => tag[0] === "expiration")?.[1];
  return expiration !== undefined && Number(expiration) * 1000 <= Date.now();
}

function showMember() {
  clearTimeout(timer);
  socket.onclose = null;
  socket.close();
  at("payment").hidden = true;
  submit.disabled = false;
  say("This key is a member: it may write to this relay.");
}

// An invoice that has been asked for is shown again, also after a reload, so that nobody pays two.
const INVOICE_MS = 9 * 60_000;
const kept = (hex) => JSON.parse(sessionStorage.getItem(hex) ?? "{}");

function show({ request, invoice, msat }) {
  showInvoice(invoice, msat);
  if (socket.readyState === WebSocket.OPEN) {
    socket.send(JSON.stringify(["REQ", "job", { authors: [relay], kinds: [7000], "#e": [request] }]));
  }
}

async function order(hex) {
  if (kept(hex).at > Date.now() - INVOICE_MS) {
    submit.disabled = false;
    return show(kept(hex));
  }
  say("Asking for an invoice …");
  const body = JSON.stringify({ kind: Number(kind), input: hex });
  const response = await fetch(`/agent/${relay}/jobs`, { method: "POST", body, headers: { "content-type": "application/json" } });
  const answer = await response.json();
  submit.disabled = false;
  if (response.status === 402) {
    const { request, invoice, amount_msat: msat } = answer;
    sessionStorage.setItem(hex, JSON.stringify({ request, invoice, msat, at: Date.now() }));
    return show({ request, invoice, msat });
  }
  if (!response.ok) return say(answer.error ?? "The relay does not answer.", true);
}

async function join() {
  const hex = hexOf(at("key").value.trim());
  if (!hex) return say("That is no public key: it begins with npub1.", true);
  submit.disabled = true;
  at("payment").hidden = true;
  say("Looking whether this key is a member …");
  let isAsked = false;
  watch(hex, (isMember) => {
    if (isMember) return showMember();
    if (isAsked) return;
    isAsked = true;
    order(hex).catch(() => {
      submit.disabled = false;
      say("The relay does not answer. Try again.", true);
    });
  });
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  join();
});
at("signer").addEventListener("click", async () => {
  try {
    at("key").value = await window.nostr.getPublicKey();
    join();
  } catch (error) {
    say(error.message, true);
  }
});
// Extensions add it after the page has been read.
setTimeout(() => { at("signer").hidden = !window.nostr; }, 300);
