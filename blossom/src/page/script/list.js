
// The list of the visitor's files.

/** Files that come at a time. */
const PAGE = 24;
/** Larger pictures are not loaded for their thumbnail's sake. */
const THUMBNAIL_BYTES_MAX = 1 << 21;
const list = find("list");
let owner;
let isBusy = false;

/** Does one thing at a time; says why it failed. */
async function doing(what, work) {
  if (isBusy) return;
  isBusy = true;
  try {
    await work();
  } catch (fault) {
    say(`${what}: ${words(fault)}`, true);
  } finally {
    isBusy = false;
  }
}

const cardOf = sha256 => list.querySelector(`[data-sha256="${sha256}"]`);
const fileCount = count => `${count} ${count === 1 ? "file" : "files"}`;

function tally() {
  const count = list.children.length;
  if (count === 0) say("You have no files here yet.");
  else say(find("more").hidden ? `${fileCount(count)}, newest first` : `The newest ${fileCount(count)}`);
}

async function listed(cursor) {
  const query = new URLSearchParams({ limit: PAGE + 1, ...(cursor && { cursor }) });
  const isSigned = find("files").dataset.list === "signed";
  const headers = isSigned ? await authorization("list", "List my files") : {};
  const blobs = await (await ask("GET", `/list/${owner}?${query}`, headers)).json();
  find("more").hidden = blobs.length <= PAGE;
  return blobs.slice(0, PAGE).filter(blob => /^[0-9a-f]{64}$/.test(blob.sha256));
}

async function showAll() {
  owner = await window.nostr.getPublicKey();
  const blobs = await listed();
  list.replaceChildren(...blobs.map(card));
  find("show").textContent = "Refresh";
  find("show").className = "";
  tally();
}

async function showMore() {
  const blobs = await listed(list.lastElementChild?.dataset.sha256);
  const cards = blobs.filter(blob => !cardOf(blob.sha256)).map(card);
  list.append(...cards);
  tally();
  // The button may be gone.
  (cards[0]?.querySelector("a") ?? find("own")).focus();
}

function card(blob) {
  const { sha256, size, type, uploaded } = blob;
  const extension = String(blob.url).match(/\.([a-z0-9]{1,8})$/)?.[1];
  const href = extension ? `/${sha256}.${extension}` : `/${sha256}`;
  const copies = element("button", { type: "button", textContent: "Copy link" });
  copies.onclick = () => copyBy(copies, blob.url);
  const deletes = element("button", { type: "button", textContent: "Delete", className: "danger" });
  const date = new Date(uploaded * 1000);
  const day = date.toLocaleDateString(undefined, { dateStyle: "medium" });
  const time = element("time", { dateTime: date.toISOString(), title: date.toLocaleString() }, day);
  const hash = element("span", { className: "hash", title: sha256 }, `${sha256.slice(0, 8)}…${sha256.slice(-4)}`);
  const about = element(
    "div",
    { className: "about" },
    element("bdi", { className: "type", textContent: type }),
    element("span", { className: "facts", id: `about-${sha256}` }, `${bytes(size)} · `, time, " · ", hash),
    element("div", { className: "choices" }, element("a", { href, className: "open", textContent: "Open" }), copies, deletes),
  );
  const made = element("li", {}, picture(blob, extension ?? "file"), about);
  made.dataset.sha256 = sha256;
  for (const control of about.querySelectorAll("a, button")) control.setAttribute("aria-describedby", `about-${sha256}`);
  deletes.onclick = () => doing("Not deleted", () => remove(made, blob));
  return made;
}

/** The picture itself if it is small, or its thumbnail; for other files a word. */
function picture({ sha256, size, type, nip94 = [] }, word) {
  const tile = element("div", { className: "look", ariaHidden: "true" });
  const thumbnail = nip94.find(([name]) => name === "thumb")?.[1]?.match(/\/([0-9a-f]{64})[^/]*$/)?.[1];
  if (!thumbnail && !(String(type).startsWith("image/") && size <= THUMBNAIL_BYTES_MAX)) {
    tile.append(word);
    return tile;
  }
  const image = element("img", { alt: "", loading: "lazy", decoding: "async", src: `/${thumbnail ?? sha256}` });
  image.onerror = () => image.replaceWith(word);
  tile.append(image);
  return tile;
}

/** Whether the visitor is sure. */
function confirmed(text) {
  const dialog = find("sure");
  find("sure-what").textContent = text;
  return new Promise(resolve => {
    find("sure-yes").onclick = () => dialog.close("yes");
    find("sure-no").onclick = () => dialog.close("");
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.returnValue = "";
    dialog.showModal();
  });
}

async function remove(shown, { sha256, size, type }) {
  const what = `${type}, ${bytes(size)}. Its links stop working, unless somebody else has uploaded the same file.`;
  if (!(await confirmed(what))) return;
  say("Waiting for your signature");
  await ask("DELETE", `/${sha256}`, await authorization("delete", `Delete the file ${sha256}`, sha256));
  const next = shown.nextElementSibling ?? shown.previousElementSibling;
  shown.remove();
  if (!next && !find("more").hidden) await showAll();
  tally();
  (next?.querySelector("a") ?? find("own")).focus();
}

find("show").onclick = () => doing("Your files cannot be shown", showAll);
find("more").onclick = () => doing("Your files cannot be shown", showMore);
