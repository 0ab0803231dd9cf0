// Jobs that are paid before they begin: NDK orders and pays, and the agent's wallet is the wallet service of Alby's SDK (NIP-47), which makes
// signed invoices (BOLT 11). Nobody moves bitcoin: a payment is what the wallet says of its invoice.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { fetchWithL402, parseL402 } from '@getalby/lightning-tools/402/l402'
import * as sdk8 from '@getalby/sdk/nwc'
import * as sdk7 from 'getalby-sdk-7/nwc'
import { decode } from 'light-bolt11-decoder'
import { getPublicKey } from 'nostr-tools/pure'
import { connected, leave } from './jobs.mjs'
import { MNEMONIC } from './owner.mjs'
import { admin, deployPaid, hashOf, Order, PRICE, URL_HERE } from './paid.mjs'
import { isOtherHost, startRelay, until } from './relay.mjs'
import { Wallet } from './wallet.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false
// Where it may not be allowed to connect to this machine.
const skipElsewhere = skip || (isOtherHost ? 'the host under test connects to public addresses only' : false)

/** Deploys an agent that is paid by a wallet before it works. */
const deploy = (relay, name, wallet) => deployPaid(relay, { name, policy: 'prepay', wallet })

async function isPaid(t, url, agent, wallet, { encrypted = false } = {}) {
  const ndk = await connected(url)
  t.after(() => leave(ndk))
  const order = await Order.send(ndk, agent, [['bid', '30000']], encrypted)
  const { msat, invoice } = await order.asked()
  assert.equal(msat, `${PRICE}`, 'the price, not the bid')
  const section = name => decode(invoice).sections.find(section => section.name === name).value
  assert.equal(section('amount'), `${PRICE}`)
  // It is asked whether it is paid, and nothing begins.
  const before = wallet.asked.length
  await until('a question', () => wallet.asked.slice(before).includes('lookup_invoice'))
  assert.deepEqual(await order.statuses(), ['payment-required'])
  wallet.pay(invoice, 2 * PRICE)
  const paidAt = performance.now()
  assert.equal(await order.result(), 'hello')
  t.diagnostic(`from the payment to the result: ${Math.round(performance.now() - paidAt)} ms; questions to the wallet: ${wallet.asked.length}`)
  assert.deepEqual(await order.statuses(), ['payment-required', 'processing'])
  const times = order.answers.map(event => event.created_at)
  assert.ok(times.every((time, at) => at === 0 || time > times[at - 1]), `${times}`)
  // Paid twice: the next one costs nothing.
  const next = await Order.send(ndk, agent, [], encrypted)
  assert.equal(await next.result(), 'hello')
  assert.deepEqual(await next.statuses(), ['processing'])
}

let host, other
const wallets = { here: new Wallet(), eight: new Wallet(), seven: new Wallet() }
before(async () => {
  if (skip) return
  other = await startRelay()
  const secrets = {
    AGENT_WALLET_HERE: wallets.here.uri(URL_HERE),
    AGENT_WALLET_EIGHT: wallets.eight.uri(other.url),
    AGENT_WALLET_SEVEN: wallets.seven.uri(other.url),
  }
  const [pubkey, privateHost] = [getPublicKey(admin), other.url.replace('ws://', '')]
  const env = { AGENT_MASTER_SECRET: MNEMONIC, ...secrets }
  const settings = { RELAY_URL: URL_HERE, RELAY_POLICY__ADMIN_PUBKEYS: pubkey, RELAY_AGENTS__ALLOW_PRIVATE_HOSTS: privateHost }
  const config = { url: URL_HERE, policy: { admin_pubkeys: [pubkey] }, agents: { allow_private_hosts: [privateHost] } }
  host = await startRelay(isOtherHost ? { config, env } : { env: { ...env, ...settings } })
  await wallets.here.start(sdk8, host.url)
  await wallets.eight.start(sdk8, other.url)
  await wallets.seven.start(sdk7, other.url)
})
after(async () => {
  Object.values(wallets).forEach(wallet => wallet.stop())
  await host?.stop()
  await other?.stop()
})

test('a job is paid to a wallet on the same relay', { skip }, async t => {
  const agent = await deploy(host, 'paid here', 'AGENT_WALLET_HERE')
  await isPaid(t, host.url, agent, wallets.here)
})

test('an encrypted job is paid to a wallet on the same relay', { skip }, async t => {
  const agent = await deploy(host, 'paid in secret', 'AGENT_WALLET_HERE')
  await isPaid(t, host.url, agent, wallets.here, { encrypted: true })
})

test("a job is paid to a wallet on another relay, of the SDK's version 8", { skip: skipElsewhere }, async t => {
  const agent = await deploy(host, 'paid elsewhere', 'AGENT_WALLET_EIGHT')
  await isPaid(t, host.url, agent, wallets.eight)
})

test("a job is paid to a wallet on another relay, of the SDK's version 7", { skip: skipElsewhere }, async t => {
  const agent = await deploy(host, 'paid to an older one', 'AGENT_WALLET_SEVEN')
  await isPaid(t, host.url, agent, wallets.seven)
})

test('a bid below the price is answered with the price', { skip }, async t => {
  const agent = await deploy(host, 'not for less', 'AGENT_WALLET_HERE')
  const ndk = await connected(host.url)
  t.after(() => leave(ndk))
  const order = await Order.send(ndk, agent, [['bid', '20000']], false)
  await until('an error', async () => (await order.statuses()).includes('error'))
  const [feedback] = await order.feedback()
  assert.match(feedback.content, /the price is 21000 msat, and the bid is 20000 msat/)
})

test("a job is ordered and paid over HTTP by Alby's L402 client", { skip: skipElsewhere }, async t => {
  const agent = await deploy(host, 'paid over HTTP', 'AGENT_WALLET_HERE')
  const url = `${host.http}/agent/${agent}/jobs`
  const body = JSON.stringify({ kind: 5050, input: 'hello', max_msat: 30_000 })
  const headers = { 'content-type': 'application/json' }
  const paid = []
  const payer = {
    payInvoice: async ({ invoice }) => {
      wallets.here.pay(invoice)
      paid.push(invoice)
      const hash = hashOf(invoice)
      return { preimage: wallets.here.invoices.get(hash).preimage }
    },
  }
  const response = await fetchWithL402(url, { method: 'POST', body, headers }, { wallet: payer })
  const told = await response.json()
  assert.equal(response.status, 200, JSON.stringify(told))
  assert.equal(told.result, 'hello')
  assert.deepEqual([paid.length, response.payment.paid, response.payment.amount], [1, true, PRICE / 1000])
  // Asked for again it is not paid again, and is the same job.
  const again = await fetchWithL402(url, { method: 'POST', body, headers }, { wallet: payer, credentials: response.payment.credentials })
  assert.equal((await again.json()).request, told.request)
  assert.equal(paid.length, 1)
  // Who has not paid gets nothing, whatever preimage he shows.
  const challenge = await fetch(url, { method: 'POST', body, headers })
  assert.equal(challenge.status, 402)
  const { token, invoice } = parseL402(challenge.headers.get('www-authenticate'))
  assert.equal((await challenge.json()).invoice, invoice)
  for (const preimage of ['', '00'.repeat(32), response.payment.preimage]) {
    const refused = await fetch(url, { method: 'POST', headers: { authorization: `L402 ${token}:${preimage}` } })
    assert.equal(refused.status, 401, preimage)
    await refused.arrayBuffer()
  }
})
