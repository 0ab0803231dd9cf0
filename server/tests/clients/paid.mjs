// Paid jobs: agents with a price, orders of NDK, and signed invoices (BOLT 11).
import { createHash, randomBytes } from 'node:crypto'
import { NDKDVMJobFeedback, NDKDVMJobResult, NDKDVMRequest } from '@nostr-dev-kit/ndk'
import bolt11 from 'bolt11'
import { decode } from 'light-bolt11-decoder'
import { generateSecretKey } from 'nostr-tools/pure'
import { deploy } from './owner.mjs'
import { now, until, within } from './relay.mjs'

export const PRICE = 21_000
/** The relay's own URL. */
export const URL_HERE = 'wss://relay.test'
/** The private key of an administrator. */
export const admin = generateSecretKey()
const REGTEST = { bech32: 'bcrt', pubKeyHash: 0x6f, scriptHash: 0xc4, validWitnessVersions: [0, 1] }
export const sha256 = bytes => createHash('sha256').update(bytes).digest('hex')

/** The payment hash of an invoice. */
export const hashOf = invoice => decode(invoice).sections.find(({ name }) => name === 'payment_hash').value

/** An invoice whose payment can be held for `blocks`; it has a description, or the hash of what it is for. */
export function signedInvoice({ amount, description, purpose, expiry, hash, blocks = 144 }) {
  const tags = [
    { tagName: 'payment_hash', data: hash },
    purpose ? { tagName: 'purpose_commit_hash', data: purpose } : { tagName: 'description', data: description },
    { tagName: 'expire_time', data: expiry },
    { tagName: 'min_final_cltv_expiry', data: blocks },
    { tagName: 'payment_secret', data: randomBytes(32).toString('hex') },
  ]
  const draft = bolt11.encode({ network: REGTEST, millisatoshis: `${amount}`, timestamp: now(), tags })
  return bolt11.sign(draft, '11'.repeat(32)).paymentRequest
}

/** Deploys an agent that wants to be paid by a wallet; `payment` and `limits` are what else its manifest says. Its public key. */
export function deployPaid(relay, { name, policy, wallet, executor = { executor: 'echo', config: {} }, payment = {}, limits = {}, price = PRICE }) {
  const handlers = [{ kind: 5050, ...executor, price: { model: 'per_job', msat: price } }]
  return deploy(relay, URL_HERE, admin, { name, handlers, payment: { policy, wallet_ref: wallet, ...payment }, limits })
}

/** An order of NDK, and what has been answered. */
export class Order {
  answers = []

  static async send(ndk, pubkey, tags, encrypted, kind = 5050) {
    const order = new Order()
    order.resultKind = kind + 1000
    const request = new NDKDVMRequest(ndk)
    request.kind = kind
    request.tags = [['i', 'hello', 'text'], ...tags]
    if (encrypted) await request.encryption(ndk.getUser({ pubkey }))
    else request.dvm = ndk.getUser({ pubkey })
    await request.sign()
    const filter = { kinds: [7000, order.resultKind], ...request.filter() }
    await within('EOSE', new Promise(resolve => {
      const onEvent = event => order.answers.push(event)
      order.subscription = ndk.subscribe(filter, { closeOnEose: false, groupable: false, onEvent, onEose: resolve })
    }))
    await within('OK', request.publish())
    return order
  }

  async feedback() {
    return Promise.all(this.answers.filter(({ kind }) => kind === 7000).map(NDKDVMJobFeedback.from))
  }

  async statuses() {
    return (await this.feedback()).map(({ status }) => status)
  }

  /** The amount and the invoice that it is asked for. */
  async asked() {
    await until('payment-required', async () => (await this.statuses()).includes('payment-required'))
    const [, msat, invoice] = (await this.feedback()).at(-1).tags.find(([name]) => name === 'amount')
    return { msat, invoice }
  }

  async result() {
    await until('a result', () => this.answers.some(({ kind }) => kind === this.resultKind))
    const result = NDKDVMJobResult.from(this.answers.find(({ kind }) => kind === this.resultKind))
    if (result.hasTag('encrypted')) await result.decrypt()
    return result.content
  }
}
