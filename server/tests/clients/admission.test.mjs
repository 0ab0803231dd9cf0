// A relay whose members pay to write: the page on which they do, in Chromium, the wallet service of Alby's SDK, and the clients' library
// nostr-tools, which is refused before and served after.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { npubEncode } from 'nostr-tools/nip19'
import { generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { Relay } from 'nostr-tools/relay'
import * as sdk8 from '@getalby/sdk/nwc'
import * as pages from './browser.mjs'
import { MNEMONIC, deploy } from './owner.mjs'
import { author, isOtherHost, startRelay, within } from './relay.mjs'
import { Wallet } from './wallet.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false
const FEE = 21_000_000
const URL_HERE = 'wss://relay.test'
const [admin, doorkeeper] = [generateSecretKey(), generateSecretKey()]
const wallet = new Wallet()

let server, browser
before(async () => {
  if (skip) return
  const admission = { pubkey: getPublicKey(doorkeeper), msat: FEE }
  // The wallet answers over this relay; on the edge the agent asks it as a client does.
  const allow_pubkeys = [wallet.pubkey, ...(isOtherHost ? [getPublicKey(wallet.client)] : [])]
  const policy = { admin_pubkeys: [getPublicKey(admin)], allow_pubkeys, admission }
  const secrets = {
    AGENT_MASTER_SECRET: MNEMONIC,
    AGENT_DOORKEEPER_KEY: Buffer.from(doorkeeper).toString('hex'),
    AGENT_WALLET: wallet.uri(URL_HERE),
  }
  const settings = {
    RELAY_URL: URL_HERE,
    RELAY_POLICY__ADMIN_PUBKEYS: policy.admin_pubkeys[0],
    RELAY_POLICY__ALLOW_PUBKEYS: wallet.pubkey,
    RELAY_POLICY__ADMISSION__PUBKEY: admission.pubkey,
    RELAY_POLICY__ADMISSION__MSAT: `${FEE}`,
  }
  server = await startRelay(isOtherHost ? { config: { url: URL_HERE, policy }, env: secrets } : { env: { ...secrets, ...settings } })
  await wallet.start(sdk8, server.url)
  const pubkey = await deploy(server, URL_HERE, admin, {
    name: 'Doorkeeper',
    identity: { imported: { secret: 'AGENT_DOORKEEPER_KEY' } },
    payment: { policy: 'prepay', wallet_ref: 'AGENT_WALLET' },
    handlers: [{ kind: 5943, executor: 'membership', inputs: ['text'], inputs_min: 1, price: { model: 'per_job', msat: FEE } }],
  })
  assert.equal(pubkey, admission.pubkey)
  browser = await pages.launch()
})
after(async () => {
  await browser?.close()
  wallet.stop()
  await server?.stop()
})

async function connected(t) {
  const relay = await Relay.connect(server.url)
  t.after(() => relay.close())
  return relay
}

const open = (t, path, options) => pages.open(t, browser, server.http, path, options)

/** What a page complains about; that a payment is required is no fault. */
const faultsOf = page => page.faults.filter(fault => !/status of 402/.test(fault))

/** Asks the page for an invoice, pays it, and waits until the page has noticed. */
async function payOn(page) {
  await page.getByRole('region', { name: 'Payment' }).waitFor()
  assert.equal(await page.locator('#amount').textContent(), '21,000 sats')
  assert.ok(await page.locator('#open img').evaluate(async image => (await image.decode(), image.naturalWidth > 0)))
  const invoice = await page.locator('#invoice').textContent()
  assert.equal(await page.locator('#open').getAttribute('href'), `lightning:${invoice}`)
  wallet.pay(invoice)
  await page.getByText('This key is a member').waitFor()
}

test('NIP-11 tells the fee and where it is paid', { skip }, async () => {
  const document = await (await fetch(server.http, { headers: { accept: 'application/nostr+json' } })).json()
  assert.deepEqual(document.fees, { admission: [{ amount: FEE, unit: 'msats' }] })
  assert.equal(document.payments_url, 'https://relay.test/join')
  assert.equal(document.self, getPublicKey(doorkeeper))
  assert.deepEqual([document.limitation.payment_required, document.limitation.restricted_writes], [true, true])
})

test('who pays on the page may write, and nobody else', { skip }, async t => {
  const relay = await connected(t)
  const [member, other] = [author(), author()]
  await assert.rejects(relay.publish(member.sign()), /restricted: .*https:\/\/relay\.test\/join/)
  const page = await open(t, '/join')
  await page.getByLabel('Your public key').fill('alice')
  await page.keyboard.press('Enter')
  await page.getByText('That is no public key').waitFor()
  await page.getByLabel('Your public key').fill(npubEncode(member.pubkey))
  await page.keyboard.press('Enter')
  await payOn(page)
  await within('OK', relay.publish(member.sign()))
  await assert.rejects(relay.publish(other.sign()), /restricted: /)
  // Once is enough: the page knows, and asks for no second invoice.
  const made = wallet.invoices.size
  await page.getByRole('button', { name: 'Get an invoice' }).click()
  await page.getByText('This key is a member').waitFor()
  assert.equal(wallet.invoices.size, made)
  assert.deepEqual(faultsOf(page), [])
})

test('an extension tells the key, and a wallet extension pays', { skip }, async t => {
  const member = author()
  const page = await open(t, '/join', {
    prepare: async page => {
      await page.exposeFunction('payInvoice', invoice => wallet.pay(invoice))
      await page.addInitScript(pubkey => {
        window.nostr = { getPublicKey: async () => pubkey }
        window.webln = { enable: async () => {}, sendPayment: invoice => window.payInvoice(invoice) }
      }, member.pubkey)
    },
  })
  await page.getByRole('button', { name: 'Use my Nostr extension' }).click()
  await page.getByRole('button', { name: 'Pay with my wallet extension' }).click()
  await page.getByText('This key is a member').waitFor()
  const relay = await connected(t)
  await within('OK', relay.publish(member.sign()))
  assert.deepEqual(faultsOf(page), [])
})

test('a gift wrap for a member is taken from anybody', { skip }, async t => {
  const relay = await connected(t)
  const [recipient] = await new Promise(resolve => {
    const found = []
    relay.subscribe([{ kinds: [8000] }], { onevent: event => found.push(event), oneose: () => resolve(found) })
  })
  const to = recipient.tags.find(([name]) => name === 'p')[1]
  const wrap = pubkey => author().sign({ kind: 1059, tags: [['p', pubkey]], content: 'sealed' })
  await within('OK', relay.publish(wrap(to)))
  await assert.rejects(relay.publish(wrap(author().pubkey)), /restricted: /)
})

for (const scheme of pages.SCHEMES) {
  test(`the page looks well with an invoice, ${scheme}`, { skip }, async t => {
    const page = await open(t, '/join', { scheme })
    await pages.looksWell(page, 'join', scheme)
    await pages.tabs(page)
    await page.getByLabel('Your public key').fill(npubEncode(author().pubkey))
    await page.keyboard.press('Enter')
    await page.getByText('Waiting for the payment').waitFor()
    await page.locator('#open img').evaluate(image => image.decode())
    page.faults = faultsOf(page)
    await pages.looksWell(page, 'join-invoice', scheme)
  })
}

test('the front page leads there', { skip }, async t => {
  const page = await open(t, '/')
  await page.getByText('This relay takes events of its members').waitFor()
  assert.equal(await page.getByRole('link', { name: 'Become a member' }).getAttribute('href'), 'https://relay.test/join')
})
