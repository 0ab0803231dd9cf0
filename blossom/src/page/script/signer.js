// The visitor's key in a NIP-07 extension, and helpers of the other scripts of this page. Text of others is inserted as text nodes only.

const find = id => document.getElementById(id);
const words = fault => fault?.message || (typeof fault === "string" && fault) || "the extension has not said why";

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Says what has happened; screen readers hear it. */
function say(text, isFault = false) {
  const said = find("said");
  said.textContent = text;
  said.classList.toggle("fault", isFault);
}

/** A size in the largest unit in which it is at least one. */
function bytes(count) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024;
  return `${count.toLocaleString("en", { maximumFractionDigits: count < 100 ? 1 : 0 })} ${units[unit]}`;
}

/** Why a request was refused: the server says it in X-Reason. */
const reason = (status, header) => header || (status ? `the server has answered ${status}` : "the server cannot be reached");

/** Of what costs something the error has the invoice. */
async function ask(method, path, headers = {}) {
  const response = await fetch(path, { method, headers, cache: "no-store" }).catch(() => {
    throw new Error(reason(0));
  });
  if (!response.ok) {
    const fault = new Error(reason(response.status, response.headers.get("x-reason")));
    throw Object.assign(fault, { invoice: response.headers.get("x-lightning") });
  }
  return response;
}

/** A token (BUD-11) as a header, for this server alone if it knows its name. The extension shows `content` to the signer. */
async function authorization(verb, content, sha256) {
  const created_at = Math.floor(Date.now() / 1000);
  const tags = [["t", verb], ["expiration", String(created_at + 300)]];
  const { server } = find("files").dataset;
  if (server) tags.push(["server", new URL(server).hostname]);
  if (sha256) tags.push(["x", sha256]);
  const event = await window.nostr.signEvent({ kind: 24242, created_at, content, tags });
  const binary = String.fromCharCode(...new TextEncoder().encode(JSON.stringify(event)));
  return { authorization: `Nostr ${btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}` };
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Over http there is no clipboard.
  const field = element("textarea", { value: text });
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (!isCopied) throw new Error("this browser does not let pages copy");
}

/** Copies, and says so on the button for a while. */
async function copyBy(button, text) {
  const label = button.textContent;
  try {
    await copy(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 2000);
  } catch (fault) {
    say(`Not copied: ${words(fault)}`, true);
  }
}

const hasSigner = () => typeof window.nostr?.signEvent === "function";

/** Shows what can be done. Extensions may come a little later than the page. */
function look(again) {
  find("with").hidden = !hasSigner();
  find("without").hidden = hasSigner() || again > 0;
  if (!hasSigner() && again > 0) setTimeout(look, 200, again - 1);
}

find("copy").hidden = false;
find("copy").onclick = ({ target }) => copyBy(target, find("address").textContent);
addEventListener("focus", () => look(0));
look(3);
