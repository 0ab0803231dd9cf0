// The form on an agent's page, in Chromium: jobs that an extension signs (NIP-07), free and paid, and jobs that are ordered without one.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import * as sdk8 from '@getalby/sdk/nwc'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import * as pages from './browser.mjs'
import { MNEMONIC, deploy } from './owner.mjs'
import { hashOf } from './paid.mjs'
import { isOtherHost, startRelay } from './relay.mjs'
import { Wallet } from './wallet.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false
const URL_HERE = 'wss://relay.test'
const PRICE = 21_000
const admin = generateSecretKey()
const wallet = new Wallet()
const agents = {}

let server, browser
before(async () => {
  if (skip) return
  const policy = { admin_pubkeys: [getPublicKey(admin)] }
  const env = { AGENT_MASTER_SECRET: MNEMONIC, AGENT_WALLET: wallet.uri(URL_HERE) }
  const settings = { RELAY_URL: URL_HERE, RELAY_POLICY__ADMIN_PUBKEYS: policy.admin_pubkeys[0] }
  server = await startRelay(isOtherHost ? { config: { url: URL_HERE, policy }, env } : { env: { ...env, ...settings } })
  await wallet.start(sdk8, server.url)
  const handlers = [
    { kind: 5050, executor: 'echo', params: { tone: { values: ['plain', 'warm'] } } },
    { kind: 5051, executor: 'text', config: { tool: 'uppercase' }, inputs: ['text'], inputs_min: 1 },
  ]
  agents.free = await deploy(server, URL_HERE, admin, { name: 'Free', handlers })
  const priced = [{ kind: 5050, executor: 'echo', price: { model: 'per_job', msat: PRICE } }]
  const payment = { policy: 'prepay', wallet_ref: 'AGENT_WALLET' }
  agents.paid = await deploy(server, URL_HERE, admin, { name: 'Paid', handlers: priced, payment })
  browser = await pages.launch()
})
after(async () => {
  await browser?.close()
  wallet.stop()
  await server?.stop()
})

/** Opens an agent's page, for a reader with an extension, whose requests are kept, or without one. */
async function open(t, agent, { extension = true, webln = false, ...options } = {}) {
  const key = generateSecretKey()
  const signed = []
  const prepare = async page => {
    await page.exposeFunction('signHere', event => {
      signed.push(finalizeEvent(event, key))
      return signed.at(-1)
    })
    await page.exposeFunction('payHere', invoice => {
      wallet.pay(invoice)
      const hash = hashOf(invoice)
      return { preimage: wallet.invoices.get(hash).preimage }
    })
    await page.addInitScript(([extension, webln]) => {
      if (extension) window.nostr = { signEvent: event => window.signHere(event) }
      if (webln) window.webln = { enable: async () => {}, sendPayment: invoice => window.payHere(invoice) }
    }, [extension, webln])
  }
  const page = await pages.open(t, browser, server.http, `/agent/${agents[agent]}`, { prepare, ...options })
  return { page, signed }
}

/** What a page complains about; that a payment is required is no fault. */
const faultsOf = page => page.faults.filter(fault => !/status of 402/.test(fault))

async function shows(page, result) {
  const shown = page.getByRole('region', { name: 'Result' }).locator('code')
  await page.getByText('Done.').waitFor()
  assert.equal(await shown.textContent(), result)
  assert.deepEqual(faultsOf(page), [])
}

test('a job that an extension signs', { skip }, async t => {
  const { page, signed } = await open(t, 'free')
  await page.getByText('Your extension signs the request.').waitFor()
  await page.getByRole('textbox', { name: 'Input' }).fill('hello, <b>world</b>')
  await page.getByRole('combobox', { name: 'tone' }).selectOption('warm')
  await page.getByRole('button', { name: 'Send' }).click()
  await shows(page, 'hello, <b>world</b>')
  assert.deepEqual(signed[0].tags, [['i', 'hello, <b>world</b>', 'text'], ['param', 'tone', 'warm'], ['p', agents.free]])
  // Another kind, by the keyboard alone.
  await page.getByRole('combobox', { name: 'Job' }).focus()
  await page.keyboard.press('ArrowDown')
  await page.keyboard.press('Tab')
  await page.keyboard.type('again')
  await page.keyboard.press('Tab')
  await page.keyboard.press('Enter')
  await page.getByText('AGAIN', { exact: true }).waitFor()
  await shows(page, 'AGAIN')
  assert.equal(signed[1].kind, 5051)
})

test('a job that is paid', { skip }, async t => {
  const { page } = await open(t, 'paid')
  await page.getByRole('textbox', { name: 'Input' }).fill('paid for')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByRole('region', { name: 'Payment' }).waitFor()
  assert.equal(await page.locator('#amount').textContent(), '21 sats')
  assert.ok(await page.locator('#open img').evaluate(async image => (await image.decode(), image.naturalWidth > 0)))
  wallet.pay(await page.locator('#invoice').textContent())
  await shows(page, 'paid for')
  assert.ok(await page.locator('#payment').isHidden())
})

test('a job without an extension', { skip }, async t => {
  const { page, signed } = await open(t, 'free', { extension: false })
  await page.getByText('the relay makes a key for this job').waitFor()
  await page.getByRole('textbox', { name: 'Input' }).fill('nobody signs')
  await page.getByRole('button', { name: 'Send' }).click()
  await shows(page, 'nobody signs')
  assert.equal(signed.length, 0)
})

test('a paid job without an extension that signs, by one that pays', { skip }, async t => {
  const { page } = await open(t, 'paid', { extension: false, webln: true })
  await page.getByRole('textbox', { name: 'Input' }).fill('over L402')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByRole('button', { name: 'Pay with my wallet extension' }).click()
  await shows(page, 'over L402')
})

test('what goes wrong is said', { skip }, async t => {
  const { page } = await open(t, 'free')
  await page.evaluate(() => (window.nostr.signEvent = async () => { throw new Error('the user has refused') }))
  await page.getByRole('textbox', { name: 'Input' }).fill('x')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByText('the user has refused').waitFor()
  // An extension that signs something else.
  await page.evaluate(() => (window.nostr.signEvent = event => window.signHere({ ...event, created_at: 1e10 })))
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByText('invalid: created_at is too far in the future').waitFor()
  // The agent refuses.
  await page.evaluate(() => (window.nostr.signEvent = event => window.signHere({ ...event, tags: [...event.tags, ['i', 'x', 'job']], kind: 5051 })))
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByText('is not an event id').waitFor()
  assert.deepEqual(page.faults, [])
})

for (const scheme of pages.SCHEMES) {
  test(`the form looks well with an invoice, ${scheme}`, { skip }, async t => {
    const { page } = await open(t, 'paid', { scheme })
    await page.getByRole('textbox', { name: 'Input' }).fill('hello')
    await page.getByRole('button', { name: 'Send' }).click()
    await page.getByText('Waiting for the payment').waitFor()
    await page.locator('#open img').evaluate(image => image.decode())
    await pages.looksWell(page, 'try-it', scheme)
    await pages.tabs(page)
  })
}
