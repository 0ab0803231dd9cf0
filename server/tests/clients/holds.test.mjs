// Jobs that are paid by hold invoices: NDK orders, the agent's wallet holds the payment while it works, takes it when there is a result, and
// gives it back if it fails. The wallet service is ours, since the independent ones hold no payments; it is checked with Alby's client.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { fetchWithL402 } from '@getalby/lightning-tools/402/l402'
import { NWCClient } from '@getalby/sdk/nwc'
import { getPublicKey } from 'nostr-tools/pure'
import { HoldWallet } from './hold-wallet.mjs'
import { connected, leave } from './jobs.mjs'
import { MNEMONIC } from './owner.mjs'
import { admin, deployPaid, hashOf, Order, PRICE, sha256, URL_HERE } from './paid.mjs'
import { isOtherHost, startRelay, until, within } from './relay.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false
// Where it may not be allowed to connect to this machine.
const skipElsewhere = skip || (isOtherHost ? 'the host under test connects to public addresses only' : false)

let host, work, answerWork
const wallet = new HoldWallet()
before(async () => {
  if (skip) return
  // What does the work: it is answered by the test.
  work = createServer((request, response) => {
    request.resume()
    answerWork = words => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(words))
  })
  await new Promise(resolve => work.listen(0, '127.0.0.1', resolve))
  const [pubkey, privateHost] = [getPublicKey(admin), `127.0.0.1:${work.address().port}`]
  const env = { AGENT_MASTER_SECRET: MNEMONIC, AGENT_WALLET: wallet.uri(URL_HERE) }
  const settings = { RELAY_URL: URL_HERE, RELAY_POLICY__ADMIN_PUBKEYS: pubkey, RELAY_AGENTS__ALLOW_PRIVATE_HOSTS: privateHost }
  const config = { url: URL_HERE, policy: { admin_pubkeys: [pubkey] }, agents: { allow_private_hosts: [privateHost] } }
  host = await startRelay(isOtherHost ? { config, env } : { env: { ...env, ...settings } })
  await wallet.start(host.url)
})
after(async () => {
  await wallet.stop()
  work?.close()
  work?.closeAllConnections()
  await host?.stop()
})

const stateOf = invoice => wallet.invoices.get(hashOf(invoice)).state

test('the wallet service is one that Alby\'s client can use', { skip }, async t => {
  const other = new HoldWallet()
  await other.start(host.url)
  const client = new NWCClient({ nostrWalletConnectUrl: other.uri(host.url) })
  const told = []
  const unsubscribe = await client.subscribeNotifications(note => told.push(note), ['hold_invoice_accepted'])
  t.after(async () => {
    unsubscribe()
    client.close()
    await other.stop()
  })
  for (const settles of [true, false]) {
    const preimage = randomBytes(32)
    const payment_hash = sha256(preimage)
    const asked = { amount: PRICE, description: 'a job', expiry: 600, payment_hash, min_cltv_expiry_delta: 64 }
    const made = await within('an invoice', client.makeHoldInvoice(asked))
    assert.equal(hashOf(made.invoice), payment_hash)
    // The subscription for notifications may begin a moment later.
    await until('a notification', async () => {
      if (!told.some(({ notification }) => notification.payment_hash === payment_hash)) await other.pay(made.invoice)
      return told.some(({ notification }) => notification.payment_hash === payment_hash)
    })
    assert.equal((await client.lookupInvoice({ payment_hash })).state, 'accepted')
    if (settles) await within('settled', client.settleHoldInvoice({ preimage: preimage.toString('hex') }))
    else await within('cancelled', client.cancelHoldInvoice({ payment_hash }))
    assert.equal((await client.lookupInvoice({ payment_hash })).state, settles ? 'settled' : 'failed')
  }
})

for (const notifies of [true, false]) {
  test(`a payment is held, and taken when there is a result (${notifies ? 'the wallet tells' : 'it is asked'})`, { skip }, async t => {
    const agent = await deployPaid(host, { name: `echo ${notifies}`, policy: 'hold', wallet: 'AGENT_WALLET' })
    const ndk = await connected(host.url)
    t.after(() => leave(ndk))
    const order = await Order.send(ndk, agent, [], notifies)
    const { msat, invoice } = await order.asked()
    assert.deepEqual([msat, stateOf(invoice)], [`${PRICE}`, 'pending'])
    wallet.notifies = notifies
    const before = wallet.asked.length
    const paidAt = performance.now()
    await wallet.pay(invoice)
    assert.equal(await order.result(), 'hello')
    t.diagnostic(`from the payment to the result: ${Math.round(performance.now() - paidAt)} ms; asked: ${wallet.asked.slice(before)}`)
    assert.equal(stateOf(invoice), 'settled')
    assert.deepEqual(await order.statuses(), ['payment-required', 'processing'])
    assert.equal(sha256(Buffer.from(wallet.invoices.get(hashOf(invoice)).preimage, 'hex')), hashOf(invoice))
  })
}

test('a payment is held while the job works, and given back when it fails', { skip: skipElsewhere }, async t => {
  const executor = { executor: 'webhook', config: { url: `http://127.0.0.1:${work.address().port}/` } }
  const agent = await deployPaid(host, { name: 'works elsewhere', policy: 'hold', wallet: 'AGENT_WALLET', executor })
  wallet.notifies = true
  for (const words of [{ error: 'cannot be done' }, { content: 'done' }]) {
    answerWork = undefined
    // Of another customer: the same words in the same second would be the same request.
    const ndk = await connected(host.url)
    t.after(() => leave(ndk))
    const order = await Order.send(ndk, agent, [], false)
    const { invoice } = await order.asked()
    assert.equal(answerWork, undefined, 'nothing begins before')
    await wallet.pay(invoice)
    await until('the work', () => answerWork)
    assert.equal(stateOf(invoice), 'accepted')
    answerWork(words)
    if (words.content) {
      assert.equal(await order.result(), 'done')
      assert.equal(stateOf(invoice), 'settled')
      continue
    }
    await until('an error', async () => (await order.statuses()).includes('error'))
    assert.match((await order.feedback()).at(-1).content, /cannot be done; your payment is given back/)
    await until('it is given back', () => stateOf(invoice) === 'failed')
  }
})

test('over HTTP the payment completes with the result', { skip: skipElsewhere }, async () => {
  const agent = await deployPaid(host, { name: 'held over HTTP', policy: 'hold', wallet: 'AGENT_WALLET' })
  const paid = []
  // What the wallet of a buyer does: it has the preimage when the payment is taken.
  const payer = {
    payInvoice: async ({ invoice }) => {
      paid.push(invoice)
      await wallet.pay(invoice)
      await until('the payment is taken', () => stateOf(invoice) === 'settled')
      return { preimage: wallet.invoices.get(hashOf(invoice)).preimage }
    },
  }
  const body = JSON.stringify({ kind: 5050, input: 'hello' })
  const headers = { 'content-type': 'application/json' }
  const response = await fetchWithL402(`${host.http}/agent/${agent}/jobs`, { method: 'POST', body, headers }, { wallet: payer })
  const told = await response.json()
  assert.equal(response.status, 200, JSON.stringify(told))
  assert.deepEqual([told.result, paid.length], ['hello', 1])
})
