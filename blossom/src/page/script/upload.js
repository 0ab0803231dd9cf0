
// Uploads, one after the other: the hash, the signature, the question whether the file would be taken, and the bytes.

/** WebCrypto wants a file as a whole in memory. */
const HASHED_BYTES_MAX = 2 ** 30;
const bytesMax = Number(find("files").dataset.bytesMax);
const zone = document.querySelector(".drop");
let last = Promise.resolve();

async function hashOf(file) {
  if (!globalThis.crypto?.subtle) throw new Error("uploads from this page need https");
  if (file.size > HASHED_BYTES_MAX) {
    throw new Error(`this page takes files up to ${bytes(HASHED_BYTES_MAX)}; a Blossom client can upload it`);
  }
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return Array.from(new Uint8Array(digest), byte => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends the file; `onProgress` hears how much of it has gone, from 0 to 1. Gives the request, which has been answered. */
function put(file, headers, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", "/upload");
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = event => onProgress(event.total ? event.loaded / event.total : 1);
    request.onerror = () => reject(new Error(reason(0)));
    request.onload = () => {
      const { status } = request;
      if (status === 200 || status === 201) resolve(request);
      else reject(Object.assign(new Error(reason(status, request.getResponseHeader("x-reason"))), { status }));
    };
    request.send(file);
  });
}

/** Proofs of payments whose files are not stored yet: they must survive a closed page and a broken connection. */
const proofs = {
  name: (sha256, size) => `blossom-payment-${sha256}-${size}`,
  get(sha256, size) {
    try {
      return localStorage.getItem(this.name(sha256, size));
    } catch {
      return null;
    }
  },
  /** Stores a preimage; without one, removes it. */
  set(sha256, size, preimage) {
    try {
      if (preimage) localStorage.setItem(this.name(sha256, size), preimage);
      else localStorage.removeItem(this.name(sha256, size));
    } catch {
      // Without storage it is shown if the upload fails.
    }
  },
};

/** Asks whether the file would be accepted. If it costs something, has a wallet extension (WebLN) pay, and returns the preimage; null if it is free. */
async function paid(sha256, size, headers, row) {
  const invoice = await ask("HEAD", "/upload", headers).then(() => null, fault => {
    if (fault.invoice) return fault.invoice;
    throw fault;
  });
  if (!invoice) return null;
  const before = proofs.get(sha256, size);
  if (before) return before;
  if (!window.webln) throw new Error("it costs something: install a wallet extension (WebLN), or use a Blossom client that has a wallet");
  row.say("Waiting for your payment");
  await window.webln.enable();
  const { preimage } = await window.webln.sendPayment(invoice);
  proofs.set(sha256, size, preimage);
  return preimage;
}

async function upload(file, row) {
  if (file.size > bytesMax) throw new Error(`it has ${bytes(file.size)}, and at most ${bytes(bytesMax)} are taken`);
  row.say("Computing its SHA-256");
  const sha256 = await hashOf(file);
  const signed = async () => {
    row.say("Waiting for your signature");
    const token = await authorization("upload", `Upload a file of ${bytes(file.size)}`, sha256);
    return { ...token, "x-sha-256": sha256 };
  };
  const type = file.type || "application/octet-stream";
  const size = String(file.size);
  let named = await signed();
  const preimage = await paid(sha256, size, { ...named, "x-content-length": size, "x-content-type": type }, row);
  // The payment may have taken longer than a token is valid.
  if (preimage) named = { ...(await signed()), "x-lightning": preimage };
  const { status, responseText } = await put(file, { ...named, "content-type": type }, part => {
    row.progress.value = part;
    row.say(part < 1 ? `${Math.floor(part * 100)} %` : "The server is storing it");
  }).catch(fault => {
    if (!preimage) throw fault;
    // These refusals are final: the proof is of no use any more.
    const isFinal = /is spent|was for something else|no invoice of this server|only \d+ msat came/;
    if (fault.status === 400 && isFinal.test(fault.message)) proofs.set(sha256, size);
    throw new Error(`${fault.message}. You have paid; choose the file again, or keep the proof of payment: ${preimage}`);
  });
  proofs.set(sha256, size);
  row.progress.value = 1;
  row.say(status === 201 ? `Stored, ${bytes(file.size)}` : "It was here already");
  if (owner === undefined) return doing("Your files cannot be shown", showAll);
  if (!cardOf(sha256)) list.prepend(card(JSON.parse(responseText)));
  tally();
}

function add(file) {
  const line = element("span", { textContent: "Waiting" });
  const progress = element("progress", { max: 1, value: 0 });
  progress.setAttribute("aria-label", `Upload of ${file.name}`);
  find("uploads").append(element("li", {}, element("bdi", { textContent: file.name }), progress, line));
  const row = { progress, say: text => (line.textContent = text) };
  last = last.then(() => upload(file, row)).catch(fault => {
    progress.remove();
    line.className = "fault";
    line.setAttribute("role", "alert");
    row.say(`Not uploaded: ${words(fault)}`);
  });
}

find("choose").onchange = ({ target }) => {
  for (const file of target.files) add(file);
  // The same file can be chosen again.
  target.value = "";
};

const hasFiles = event => hasSigner() && event.dataTransfer?.types.includes("Files");
addEventListener("dragover", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  zone.classList.add("over");
});
addEventListener("dragleave", event => event.relatedTarget || zone.classList.remove("over"));
addEventListener("drop", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  zone.classList.remove("over");
  for (const file of event.dataTransfer.files) add(file);
});
