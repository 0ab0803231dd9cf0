// The wallet service of Alby's SDK (NIP-47), which makes signed invoices (BOLT 11). Nobody moves bitcoin: a payment is what the wallet says of
// its invoice.
import { createHash, randomBytes } from 'node:crypto'
import bolt11 from 'bolt11'
import { decode } from 'light-bolt11-decoder'
import { generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { now, within } from './relay.mjs'

const REGTEST = { bech32: 'bcrt', pubKeyHash: 0x6f, scriptHash: 0xc4, validWitnessVersions: [0, 1] }
const sha256 = bytes => createHash('sha256').update(bytes).digest('hex')

/** A wallet service, with a client key for the agent. */
export class Wallet {
  invoices = new Map()
  asked = []
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
    }))
    await within('its info event', this.service.publishWalletServiceInfoEvent(this.secret, ['make_invoice', 'lookup_invoice'], []))
  }

  answer(method, result) {
    this.asked.push(method)
    return { result: result(), error: undefined }
  }

  make({ amount, description, expiry }) {
    const preimage = randomBytes(32)
    const hash = sha256(preimage)
    const tags = [
      { tagName: 'payment_hash', data: hash },
      { tagName: 'description', data: description },
      { tagName: 'expire_time', data: expiry },
      { tagName: 'payment_secret', data: randomBytes(32).toString('hex') },
    ]
    const draft = bolt11.encode({ network: REGTEST, millisatoshis: `${amount}`, timestamp: now(), tags })
    const { paymentRequest } = bolt11.sign(draft, '11'.repeat(32))
    const invoice = { type: 'incoming', state: 'pending', invoice: paymentRequest, payment_hash: hash, amount, fees_paid: 0 }
    this.invoices.set(hash, { ...invoice, preimage: preimage.toString('hex'), created_at: now(), expires_at: now() + expiry })
    return this.transaction(hash)
  }

  transaction(hash) {
    const { preimage, ...invoice } = this.invoices.get(hash)
    return invoice.state === 'settled' ? { ...invoice, preimage } : invoice
  }

  /** Somebody pays an invoice. */
  pay(invoice, msat) {
    const hash = decode(invoice).sections.find(({ name }) => name === 'payment_hash').value
    const paid = this.invoices.get(hash)
    Object.assign(paid, { state: 'settled', settled_at: now(), amount: msat ?? paid.amount })
  }

  stop() {
    this.service?.close()
  }
}
