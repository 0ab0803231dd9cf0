// The wallet service of Alby's SDK (NIP-47). Nobody moves bitcoin: a payment is what the wallet says of its invoice.
import { randomBytes } from 'node:crypto'
import { decode } from 'light-bolt11-decoder'
import { generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { hashOf, sha256, signedInvoice } from './paid.mjs'
import { now, within } from './relay.mjs'

/** A wallet service, with a client key for the agent. */
export class Wallet {
  invoices = new Map()
  asked = []
  /** What it has paid, by payment hash. */
  paid = new Map()
  /** Of invoices of others, by payment hash. */
  preimages = new Map()
  /** While it is away it answers nothing. */
  isAway = false
  secret = Buffer.from(generateSecretKey()).toString('hex')
  client = generateSecretKey()

  get pubkey() {
    return getPublicKey(Buffer.from(this.secret, 'hex'))
  }

  /** The connection string that an owner gives to the agent's host. */
  uri(relay) {
    const secret = Buffer.from(this.client).toString('hex')
    return `nostr+walletconnect://${this.pubkey}?relay=${encodeURIComponent(relay)}&secret=${secret}`
  }

  async start({ NWCWalletService, NWCWalletServiceKeyPair }, url) {
    // Version 7 has one relay.
    this.service = new NWCWalletService({ relayUrls: [url], relayUrl: url })
    const keys = new NWCWalletServiceKeyPair(this.secret, getPublicKey(this.client))
    await within('a subscription', this.service.subscribe(keys, {
      makeInvoice: async request => this.answer('make_invoice', () => this.make(request)),
      lookupInvoice: async request => this.answer('lookup_invoice', () => this.transaction(request.payment_hash)),
      payInvoice: async request => this.answer('pay_invoice', () => this.payOut(request.invoice)),
    }))
    const methods = ['make_invoice', 'lookup_invoice', 'pay_invoice']
    await within('its info event', this.service.publishWalletServiceInfoEvent(this.secret, methods, []))
  }

  async answer(method, result) {
    while (this.isAway) await new Promise(resolve => setTimeout(resolve, 50))
    this.asked.push(method)
    return { result: result(), error: undefined }
  }

  make({ amount, description, expiry }) {
    const preimage = randomBytes(32)
    const hash = sha256(preimage)
    const signed = signedInvoice({ amount, description, expiry, hash })
    const invoice = { type: 'incoming', state: 'pending', invoice: signed, payment_hash: hash, amount, fees_paid: 0 }
    this.invoices.set(hash, { ...invoice, preimage: preimage.toString('hex'), created_at: now(), expires_at: now() + expiry })
    return this.transaction(hash)
  }

  /** It pays an invoice of somebody, for a fee of a satoshi. */
  payOut(invoice) {
    const hash = hashOf(invoice)
    const preimage = this.preimages.get(hash)
    const amount = Number(decode(invoice).sections.find(({ name }) => name === 'amount').value)
    const times = { created_at: now(), expires_at: now() + 600, settled_at: now() }
    this.paid.set(hash, { type: 'outgoing', state: 'settled', invoice, payment_hash: hash, amount, fees_paid: 1000, preimage, ...times })
    return { preimage, fees_paid: 1000 }
  }

  transaction(hash) {
    if (this.paid.has(hash)) return this.paid.get(hash)
    const { preimage, ...invoice } = this.invoices.get(hash)
    return invoice.state === 'settled' ? { ...invoice, preimage } : invoice
  }

  /** Somebody pays an invoice. */
  pay(invoice, msat) {
    const hash = hashOf(invoice)
    const paid = this.invoices.get(hash)
    Object.assign(paid, { state: 'settled', settled_at: now(), amount: msat ?? paid.amount })
  }

  stop() {
    this.service?.close()
  }
}
