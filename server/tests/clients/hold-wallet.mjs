// A wallet service (NIP-47) that holds payments: make_hold_invoice, settle_hold_invoice, cancel_hold_invoice, lookup_invoice, and the
// notification hold_invoice_accepted. Nobody moves bitcoin: a payment is what the wallet says of its invoice.
import * as nip44 from 'nostr-tools/nip44'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { Relay } from 'nostr-tools/relay'
import { hashOf, sha256, signedInvoice } from './paid.mjs'
import { now, within } from './relay.mjs'

const METHODS = ['make_hold_invoice', 'settle_hold_invoice', 'cancel_hold_invoice', 'lookup_invoice']

class Refused extends Error {
  constructor(code, message) {
    super(message)
    this.code = code
  }
}

export class HoldWallet {
  /** By payment hash. */
  invoices = new Map()
  /** The methods that it was asked for. */
  asked = []
  /** Answers that the relay may not have yet. */
  answers = []
  /** Whether it tells of payments by itself. */
  notifies = true
  secret = generateSecretKey()
  client = generateSecretKey()
  key = nip44.getConversationKey(this.secret, getPublicKey(this.client))

  /** The connection string that an owner gives to the agent's host. */
  uri(relay) {
    const secret = Buffer.from(this.client).toString('hex')
    return `nostr+walletconnect://${getPublicKey(this.secret)}?relay=${encodeURIComponent(relay)}&secret=${secret}`
  }

  async start(url) {
    this.relay = await within('a connection', Relay.connect(url))
    const tags = [['encryption', 'nip44_v2'], ['notifications', 'hold_invoice_accepted']]
    await within('its info event', this.relay.publish(this.sign(13194, tags, METHODS.join(' '))))
    const filter = { kinds: [23194], '#p': [getPublicKey(this.secret)] }
    await within('a subscription', new Promise(oneose => {
      this.relay.subscribe([filter], { onevent: event => this.answers.push(this.answer(event)), oneose })
    }))
  }

  sign(kind, tags, content) {
    return finalizeEvent({ kind, created_at: now(), tags, content }, this.secret)
  }

  send(kind, tags, words) {
    const content = nip44.encrypt(JSON.stringify(words), this.key)
    return this.relay.publish(this.sign(kind, [['p', getPublicKey(this.client)], ...tags], content))
  }

  async answer(event) {
    if (event.pubkey !== getPublicKey(this.client)) return
    const { method, params } = JSON.parse(nip44.decrypt(event.content, this.key))
    this.asked.push(method)
    const words = { result_type: method, error: null, result: null }
    try {
      words.result = this.carryOut(method, params)
    } catch (error) {
      words.error = { code: error.code ?? 'INTERNAL', message: error.message }
    }
    await this.send(23195, [['e', event.id]], words)
  }

  carryOut(method, params) {
    switch (method) {
      case 'make_hold_invoice': return this.make(params)
      case 'lookup_invoice': return this.transaction(params.payment_hash)
      case 'settle_hold_invoice': {
        const held = this.held(sha256(Buffer.from(params.preimage, 'hex')))
        Object.assign(held, { state: 'settled', settled_at: now(), preimage: params.preimage })
        return {}
      }
      case 'cancel_hold_invoice':
        Object.assign(this.held(params.payment_hash), { state: 'failed' })
        return {}
      default: throw new Refused('NOT_IMPLEMENTED', method)
    }
  }

  make({ amount, description, expiry, payment_hash, min_cltv_expiry_delta }) {
    if (this.invoices.has(payment_hash)) throw new Refused('OTHER', 'there is an invoice with this payment hash')
    const invoice = signedInvoice({ amount, description, expiry, hash: payment_hash, blocks: min_cltv_expiry_delta })
    const times = { created_at: now(), expires_at: now() + expiry }
    this.invoices.set(payment_hash, { type: 'incoming', state: 'pending', invoice, payment_hash, amount, ...times })
    return this.transaction(payment_hash)
  }

  transaction(hash) {
    const invoice = this.invoices.get(hash)
    if (!invoice) throw new Refused('NOT_FOUND', 'no such invoice')
    return { ...invoice }
  }

  /** An invoice whose payment it holds. Like Alby Hub it settles and cancels no other. */
  held(hash) {
    const invoice = this.invoices.get(hash)
    if (invoice?.state !== 'accepted') throw new Refused('INTERNAL', 'failed to find accepted hold invoice')
    return invoice
  }

  /** Somebody pays an invoice, which it holds from now on. */
  async pay(invoice) {
    const paid = this.invoices.get(hashOf(invoice))
    Object.assign(paid, { state: 'accepted', settle_deadline: 900_000 })
    if (this.notifies) {
      await this.send(23197, [], { notification_type: 'hold_invoice_accepted', notification: { ...paid } })
    }
  }

  async stop() {
    await within('answers', Promise.allSettled(this.answers))
    this.relay?.close()
  }
}
