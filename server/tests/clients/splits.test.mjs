// Shares of what an agent earns (payment.splits), paid to a Lightning address by the wallet service of Alby's SDK (NIP-47); the customer is NDK. Nobody moves bitcoin.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import * as sdk from '@getalby/sdk/nwc'
import { decode } from 'light-bolt11-decoder'
import { npubEncode } from 'nostr-tools/nip19'
import { finalizeEvent, getPublicKey } from 'nostr-tools/pure'
import { connected, leave } from './jobs.mjs'
import { LightningAddress } from './lightning-address.mjs'
import { MNEMONIC } from './owner.mjs'
import { admin, deployPaid, Order, PRICE, URL_HERE } from './paid.mjs'
import { isOtherHost, now, startRelay, until } from './relay.mjs'
import { Wallet } from './wallet.mjs'

const skip = process.env.RELAY_URL
  ? 'agents are deployed on relays of our own'
  : isOtherHost && 'the host under test connects to public addresses only'

let host
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
  await host?.stop()
})

/** What the owner sees of the agent's shares. */
async function shares(agent) {
  const path = `/agent/${npubEncode(agent)}/memory`
  const tags = [['u', `${URL_HERE.replace('ws', 'http')}${path}`], ['method', 'GET'], ['nonce', `${Math.random()}`]]
  const token = finalizeEvent({ kind: 27235, created_at: now(), tags, content: '' }, admin)
  const authorization = `Nostr ${Buffer.from(JSON.stringify(token)).toString('base64')}`
  return (await (await fetch(`${host.http}${path}`, { headers: { authorization } })).json()).shares
}

test('a share of what is earned is paid to a Lightning address', { skip }, async t => {
  const splits = [{ address: service.address, percent: 60 }]
  const payment = { splits, splits_min_msat: 100_000 }
  const limits = { daily_spend_msat: 1_000_000 }
  const agent = await deployPaid(host, { name: 'shares', policy: 'prepay', wallet: 'AGENT_WALLET', payment, limits, price: 10 * PRICE })
  const ndk = await connected(host.url)
  t.after(() => leave(ndk))
  const order = await Order.send(ndk, agent, [])
  const { invoice } = await order.asked()
  wallet.pay(invoice)
  assert.equal(await order.result(), 'hello')
  await until('a payment to the recipient', () => wallet.paid.size === 1)
  const share = 6 * PRICE
  const [paid] = wallet.paid.values()
  const amount = Number(decode(paid.invoice).sections.find(({ name }) => name === 'amount').value)
  assert.equal(amount, Math.floor((share - 10_000) / 1_000) * 1_000)
  // The fee is a thousand, and the rest of the reserve is due again.
  let due
  await until('the books', async () => {
    ;[due] = await shares(agent)
    return due.due_msat === share - amount - 1_000
  })
  assert.deepEqual([due.address, due.percent, due.error], [service.address, 60, undefined])
  assert.equal(wallet.asked.filter(method => method === 'pay_invoice').length, 1)
})
