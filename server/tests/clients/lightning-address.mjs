// The service of a Lightning address (LUD-06, LUD-16) that makes zap receipts (NIP-57), before a wallet of wallet.mjs, which can also pay its other invoices. Nobody moves
// bitcoin.
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { makeZapReceipt, validateZapRequest } from 'nostr-tools/nip57'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { SimplePool } from 'nostr-tools/pool'
import { sha256, signedInvoice } from './paid.mjs'
import { now, within } from './relay.mjs'

/** See the file. Its only name is `agent`. */
export class LightningAddress {
  key = generateSecretKey()
  requests = new Map()
  asked = 0
  pool = new SimplePool()

  constructor(wallet) {
    this.wallet = wallet
    this.server = createServer((request, response) => {
      const answer = this.answer(new URL(request.url, 'http://service'))
      response.writeHead(answer ? 200 : 404, { 'content-type': 'application/json' }).end(JSON.stringify(answer ?? {}))
    })
  }

  async start() {
    await new Promise(resolve => this.server.listen(0, '127.0.0.1', resolve))
  }

  get host() {
    return `127.0.0.1:${this.server.address().port}`
  }

  get address() {
    return `agent@${this.host}`
  }

  answer({ pathname, searchParams }) {
    if (pathname === '/.well-known/lnurlp/agent') {
      this.asked++
      return {
        tag: 'payRequest',
        callback: `http://${this.host}/callback`,
        minSendable: 1_000,
        maxSendable: 1_000_000_000,
        metadata: JSON.stringify([['text/plain', 'agent'], ['text/identifier', this.address]]),
        allowsNostr: true,
        nostrPubkey: getPublicKey(this.key),
      }
    }
    if (pathname !== '/callback') return undefined
    const [amount, request] = [Number(searchParams.get('amount')), searchParams.get('nostr')]
    const preimage = randomBytes(32)
    const hash = sha256(preimage)
    if (request === null) {
      this.wallet.preimages.set(hash, preimage.toString('hex'))
      return { pr: signedInvoice({ amount, description: 'a payment', expiry: 600, hash }), routes: [] }
    }
    const wrong = validateZapRequest(request)
    if (wrong) return { status: 'ERROR', reason: wrong }
    const pr = signedInvoice({ amount, purpose: sha256(request), expiry: 600, hash })
    const invoice = { type: 'incoming', state: 'pending', invoice: pr, payment_hash: hash, amount, fees_paid: 0 }
    const made = { ...invoice, preimage: preimage.toString('hex'), created_at: now(), expires_at: now() + 600 }
    // Its wallet has it, and tells of it when it is asked.
    this.wallet.invoices.set(hash, made)
    this.requests.set(pr, { request, preimage: made.preimage })
    return { pr, routes: [] }
  }

  /** The receipt of a zap; `key` is that of whoever makes it. */
  receipt(invoice, key = this.key) {
    const { request, preimage } = this.requests.get(invoice)
    return finalizeEvent(makeZapReceipt({ zapRequest: request, preimage, bolt11: invoice, paidAt: new Date() }), key)
  }

  publish(url, event) {
    return within('OK', Promise.all(this.pool.publish([url], event)))
  }

  /** Somebody pays an invoice of a zap: the wallet has the money, and the relay a receipt. */
  async pay(url, invoice) {
    this.wallet.pay(invoice)
    const receipt = this.receipt(invoice)
    await this.publish(url, receipt)
    return receipt
  }

  stop() {
    this.pool.destroy()
    this.server.close()
    this.server.closeAllConnections()
  }
}

