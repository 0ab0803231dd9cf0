// Jobs that are paid by zaps (NIP-57): NDK orders, nostr-tools makes zap requests and receipts, the service of the Lightning address is ours, and the agent's wallet is the
// wallet service of Alby's SDK.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import * as sdk from '@getalby/sdk/nwc'
import { makeZapRequest } from 'nostr-tools/nip57'
import { SimplePool } from 'nostr-tools/pool'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { connected, leave, storedAt } from './jobs.mjs'
import { LightningAddress } from './lightning-address.mjs'
import { MNEMONIC } from './owner.mjs'
import { admin, deployPaid, Order, PRICE, URL_HERE } from './paid.mjs'
import { isOtherHost, startRelay, until } from './relay.mjs'
import { Wallet } from './wallet.mjs'

const skip = process.env.RELAY_URL
  ? 'agents are deployed on relays of our own'
  : isOtherHost && 'the host under test connects to public addresses only'

let host
const pool = new SimplePool()
const wallet = new Wallet()
const service = new LightningAddress(wallet)
before(async () => {
  if (skip) return
  await service.start()
  const settings = {
    RELAY_URL: URL_HERE,
    RELAY_POLICY__ADMIN_PUBKEYS: getPublicKey(admin),
    RELAY_AGENTS__ALLOW_PRIVATE_HOSTS: service.host,
  }
  host = await startRelay({ env: { AGENT_MASTER_SECRET: MNEMONIC, AGENT_WALLET: wallet.uri(URL_HERE), ...settings } })
  await wallet.start(sdk, host.url)
})
after(async () => {
  wallet.stop()
  service.stop()
  pool.destroy()
  await host?.stop()
})

/** Deploys an agent with a Lightning address. */
const deploy = (name, policy, check) =>
  deployPaid(host, { name, policy, wallet: 'AGENT_WALLET', payment: { zap: service.address, zap_check: check } })

/** A customer zaps an event, as clients do: the address is in the agent's profile. The invoice. */
async function zap(ndk, agent, event, msat = PRICE) {
  const [profile] = await storedAt(pool, host.url)({ kinds: [0], authors: [agent] })
  const [name, domain] = JSON.parse(profile.content).lud16.split('@')
  const endpoint = await (await fetch(`http://${domain}/.well-known/lnurlp/${name}`)).json()
  assert.equal(endpoint.allowsNostr, true)
  const template = makeZapRequest({ event: event.rawEvent(), amount: msat, relays: [host.url], comment: 'for the job' })
  const request = finalizeEvent(template, Buffer.from(ndk.signer.privateKey, 'hex'))
  const query = new URLSearchParams({ amount: `${msat}`, nostr: JSON.stringify(request) })
  const { pr, reason } = await (await fetch(`${endpoint.callback}?${query}`)).json()
  assert.ok(pr, reason)
  return pr
}

const last = order => order.answers.at(-1)
const seconds = count => new Promise(resolve => setTimeout(resolve, 1_000 * count))

for (const [policy, check] of [['prepay', 'wallet'], ['prepay', 'receipt'], ['sample', 'wallet']]) {
  test(`a job is paid by a zap (${policy}, ${check})`, { skip }, async t => {
    const agent = await deploy(`zapped ${policy} ${check}`, policy, check)
    const ndk = await connected(host.url)
    t.after(() => leave(ndk))
    const order = await Order.send(ndk, agent, [], false)
    await order.asked()
    const invoice = await zap(ndk, agent, last(order))
    // Receipts by others, before and after it is paid.
    await service.publish(host.url, service.receipt(invoice, generateSecretKey()))
    // That of the service before the wallet has the money is enough where nobody asks the wallet.
    if (check === 'wallet') {
      await service.publish(host.url, service.receipt(invoice))
      await seconds(1)
      assert.ok(order.answers.every(({ kind }) => kind === 7000), 'it is not paid')
      wallet.pay(invoice)
    } else {
      await seconds(1)
      assert.ok(order.answers.every(({ kind }) => kind === 7000), 'it is not paid')
      await service.pay(host.url, invoice)
    }
    const paidAt = performance.now()
    assert.equal(await order.result(), 'hello')
    t.diagnostic(`from the payment to the result: ${Math.round(performance.now() - paidAt)} ms; questions to the service: ${service.asked}`)
    const expected = policy === 'prepay' ? ['payment-required', 'processing'] : ['processing', 'payment-required']
    assert.deepEqual(await order.statuses(), expected)
    // The same receipt again, in another second, is nobody's credit.
    await seconds(1.1)
    await service.publish(host.url, service.receipt(invoice))
    const next = await Order.send(ndk, agent, [['param', 'n', '2']], false)
    await next.asked()
    // Twice as much: the next one costs nothing.
    await service.pay(host.url, await zap(ndk, agent, last(next), 2 * PRICE))
    assert.equal(await next.result(), 'hello')
    const third = await Order.send(ndk, agent, [['param', 'n', '3']], false)
    assert.equal(await third.result(), 'hello')
    assert.deepEqual(await third.statuses(), ['processing'])
  })
}
