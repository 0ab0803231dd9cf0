// Results that are paid when they are there, and credit that is paid out: the agent's wallet is the wallet service of Alby's SDK (NIP-47). Nobody
// moves bitcoin: a payment is what the wallet says of its invoice.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, before, test } from 'node:test'
import { NDKPrivateKeySigner } from '@nostr-dev-kit/ndk'
import * as sdk from '@getalby/sdk/nwc'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { npubEncode } from 'nostr-tools/nip19'
import { connected, leave } from './jobs.mjs'
import { MNEMONIC } from './owner.mjs'
import { admin, deployPaid, hashOf, Order, PRICE, sha256, signedInvoice, URL_HERE } from './paid.mjs'
import { isOtherHost, now, startRelay, until } from './relay.mjs'
import { Wallet } from './wallet.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false

let host
const wallet = new Wallet()
before(async () => {
  if (skip) return
  const pubkey = getPublicKey(admin)
  const env = { AGENT_MASTER_SECRET: MNEMONIC, AGENT_WALLET: wallet.uri(URL_HERE) }
  const settings = { RELAY_URL: URL_HERE, RELAY_POLICY__ADMIN_PUBKEYS: pubkey }
  const config = { url: URL_HERE, policy: { admin_pubkeys: [pubkey] } }
  host = await startRelay(isOtherHost ? { config, env } : { env: { ...env, ...settings } })
  await wallet.start(sdk, host.url)
})
after(async () => {
  wallet.stop()
  await host?.stop()
})

let signed = 0

/** A customer's request about an agent (NIP-98), and what the host says to it. */
async function ask(secret, method, path, words) {
  const body = words && JSON.stringify(words)
  const tags = [['u', `${URL_HERE.replace('ws', 'http')}${path}`], ['method', method], ['nonce', `${signed++}`]]
  if (body) tags.push(['payload', sha256(body)])
  const token = finalizeEvent({ kind: 27235, created_at: now(), tags, content: '' }, secret)
  const authorization = `Nostr ${Buffer.from(JSON.stringify(token)).toString('base64')}`
  const response = await fetch(`${host.http}${path}`, { method, headers: { authorization }, body })
  return { status: response.status, document: await response.json() }
}

/** An invoice of a customer, which the agent's wallet can pay. */
function invoiceOf(amount) {
  const preimage = randomBytes(32)
  const hash = sha256(preimage)
  wallet.preimages.set(hash, preimage.toString('hex'))
  return signedInvoice({ amount, description: 'a refund', expiry: 600, hash })
}

test('a result is published when it is paid, and credit is paid out once', { skip }, async t => {
  const payment = { refund: 'invoice' }
  const agent = await deployPaid(host, { name: 'pays back', policy: 'postpay', wallet: 'AGENT_WALLET', payment, limits: { daily_spend_msat: 100_000 } })
  const secret = generateSecretKey()
  const ndk = await connected(host.url)
  ndk.signer = new NDKPrivateKeySigner(Buffer.from(secret).toString('hex'))
  t.after(() => leave(ndk))
  const order = await Order.send(ndk, agent, [])
  const { msat, invoice } = await order.asked()
  assert.equal(msat, `${PRICE}`)
  assert.deepEqual(await order.statuses(), ['processing', 'payment-required'], 'the work is done first')
  assert.ok(order.answers.every(event => !event.content.includes('hello')), 'and not shown')
  wallet.pay(invoice, 2 * PRICE)
  assert.equal(await order.result(), 'hello')

  // What was paid too much is credit.
  const path = `/agent/${npubEncode(agent)}/refund`
  const tooMuch = await ask(secret, 'POST', path, { invoice: invoiceOf(PRICE) })
  assert.equal(tooMuch.status, 400, JSON.stringify(tooMuch.document))
  const refund = invoiceOf(10_000)
  const first = await ask(secret, 'POST', path, { invoice: refund })
  assert.equal(first.status, 202, JSON.stringify(first.document))
  assert.deepEqual([first.document.state, first.document.msat, first.document.payment_hash], ['pending', 10_000, hashOf(refund)])
  let again
  await until('a paid refund', async () => {
    again = await ask(secret, 'POST', path, { invoice: refund })
    return again.document.state === 'paid'
  })
  assert.equal(again.document.fees_msat, 1_000)
  assert.equal(wallet.asked.filter(method => method === 'pay_invoice').length, 1)
  const memory = await ask(secret, 'GET', `/agent/${npubEncode(agent)}/memory`)
  assert.equal(memory.document.credit_msat, PRICE - 11_000, JSON.stringify(memory.document))
  // Somebody else has no credit.
  const stranger = await ask(generateSecretKey(), 'POST', path, { invoice: invoiceOf(15_000) })
  assert.equal(stranger.status, 400, JSON.stringify(stranger.document))
})
