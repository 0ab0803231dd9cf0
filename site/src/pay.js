"use strict";
const at = (id) => document.getElementById(id);

function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

// Shows an invoice in the section «payment».
function showInvoice(invoice, msat) {
  say("Waiting for the payment …");
  at("amount").textContent = `${(msat / 1000).toLocaleString("en")} sats`;
  at("invoice").textContent = invoice;
  at("open").href = `lightning:${invoice}`;
  const code = Object.assign(new Image(280, 280), { alt: "The invoice as a QR code", src: `/invoice.svg?invoice=${invoice}` });
  at("open").replaceChildren(code, "Open in a wallet");
  at("extension").hidden = !window.webln;
  at("payment").hidden = false;
  at("payment").scrollIntoView({ block: "nearest" });
}

at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(at("invoice").textContent);
  say("Copied. Waiting for the payment …");
});
at("extension").addEventListener("click", async () => {
  try {
    await window.webln.enable();
    await window.webln.sendPayment(at("invoice").textContent);
    say("Paid. Waiting for the confirmation …");
  } catch (error) {
    say(error.message, true);
  }
});
