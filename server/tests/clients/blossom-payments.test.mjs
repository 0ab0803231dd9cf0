// Files that are paid for (BUD-07): blossom-client-sdk uploads, mirrors and downloads, and the wallet service of Alby's SDK is paid.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { Actions, createDeleteAuth, createUploadAuth, encodeAuthorizationHeader } from 'blossom-client-sdk'
import { generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import * as sdk8 from '@getalby/sdk/nwc'
import * as pages from './browser.mjs'
import { assertBytes } from './bytes.mjs'
import { MNEMONIC, deploy } from './owner.mjs'
import { hashOf } from './paid.mjs'
import { png } from './png.mjs'
import { author, isOtherHost, startRelay, until, withoutFiles } from './relay.mjs'
import { Wallet } from './wallet.mjs'

const skip = withoutFiles
const URL_HERE = 'wss://relay.test'
const PER_MIB = 21_000_000
const [admin, till] = [generateSecretKey(), generateSecretKey()]
const wallet = new Wallet()

let server, browser
before(async () => {
  if (skip) return
  const payment = {
    pubkey: getPublicKey(till),
    upload_msat_per_mib: PER_MIB,
    download_msat_per_mib: 1000,
    free_bytes: 100,
  }
  const secrets = {
    AGENT_MASTER_SECRET: MNEMONIC,
    AGENT_TILL_KEY: Buffer.from(till).toString('hex'),
    AGENT_WALLET: wallet.uri(URL_HERE),
  }
  const settings = {
    RELAY_URL: URL_HERE,
    RELAY_POLICY__ADMIN_PUBKEYS: getPublicKey(admin),
    RELAY_BLOSSOM__ALLOW_PRIVATE_ADDRESSES: 'true',
    ...Object.fromEntries(Object.entries(payment).map(([key, value]) => [`RELAY_BLOSSOM__PAYMENT__${key.toUpperCase()}`, `${value}`])),
  }
  const policy = { admin_pubkeys: [getPublicKey(admin)] }
  const config = { url: URL_HERE, policy, blossom: { payment, allow_private_addresses: true } }
  server = await startRelay(isOtherHost ? { config, env: secrets } : { env: { ...secrets, ...settings } })
  await wallet.start(sdk8, server.url)
  const pubkey = await deploy(server, URL_HERE, admin, {
    name: 'Files',
    identity: { imported: { secret: 'AGENT_TILL_KEY' } },
    payment: { policy: 'prepay', wallet_ref: 'AGENT_WALLET' },
    handlers: [{ kind: 5944, executor: 'blob_payment', inputs: ['text'], price: { model: 'per_job', msat: 1000 } }],
  })
  assert.equal(pubkey, payment.pubkey)
  browser = await pages.launch()
})
after(async () => {
  await browser?.close()
  wallet.stop()
  await server?.stop()
})

const sha256 = bytes => createHash('sha256').update(bytes).digest('hex')
const bytesOf = (size = 1000) => randomBytes(size)
const blobOf = (bytes, type = 'text/plain') => new Blob([bytes], { type })
const sats = size => Math.ceil((size * PER_MIB) / 2 ** 20 / 1000)
const preimageOf = invoice => wallet.invoices.get(hashOf(invoice)).preimage

function user() {
  const { sign } = author()
  return async draft => sign(draft)
}

/** What the SDK is to do when it is asked to pay. */
function payer() {
  const invoices = []
  const onPaymentRequired = async (...args) => {
    const invoice = args.at(-1).get('x-lightning')
    invoices.push(invoice)
    wallet.pay(invoice)
    return { 'X-Lightning': preimageOf(invoice) }
  }
  return { invoices, onPaymentRequired }
}

/** A request with a token for these bytes. */
async function request(signer, method, path, bytes, { verb = 'upload', headers = {}, body = bytes } = {}) {
  const auth = await createUploadAuth(signer, sha256(bytes), { type: verb })
  return fetch(server.http + path, {
    method,
    body: method === 'HEAD' ? undefined : body,
    headers: { authorization: encodeAuthorizationHeader(auth), 'content-type': 'application/octet-stream', ...headers },
  })
}

async function refused(response, status, reason) {
  assert.equal(response.status, status, response.headers.get('x-reason'))
  assert.match(response.headers.get('x-reason'), reason)
  await response.arrayBuffer()
}

/** The invoice of a request that is not paid. */
async function invoiceOf(response) {
  await refused(response, 402, /payment required/)
  return response.headers.get('x-lightning')
}

const paid = (signer, bytes) => proof =>
  request(signer, 'PUT', '/upload', bytes, { headers: { 'x-lightning': proof } })

test('the page and NIP-11 say the price', { skip }, async () => {
  const document = await (await fetch(server.http, { headers: { accept: 'application/nostr+json' } })).json()
  assert.deepEqual(document.fees.upload, [{ amount: PER_MIB, unit: 'msats', per_bytes: 2 ** 20 }])
  assert.deepEqual(document.fees.download, [{ amount: 1000, unit: 'msats', per_bytes: 2 ** 20 }])
  for (const path of ['/', '/blossom']) {
    assert.match(await (await fetch(server.http + path)).text(), /storing costs 21,000 sats a MiB, a download costs 1 sat/)
  }
})

test('blossom-client-sdk pays for an upload and a download, and for nothing that is here', { skip }, async () => {
  const signer = user()
  const bytes = bytesOf()
  const auth = await createUploadAuth(signer, blobOf(bytes))
  const uploading = payer()
  const descriptor = await Actions.uploadBlob(server.http, blobOf(bytes), { auth, ...uploading })
  assert.deepEqual({ sha256: descriptor.sha256, size: descriptor.size }, { sha256: sha256(bytes), size: bytes.length })
  assert.equal(uploading.invoices.length, 1)
  assert.equal(wallet.invoices.get(hashOf(uploading.invoices[0])).amount, sats(bytes.length) * 1000)
  const again = await Actions.uploadBlob(server.http, blobOf(bytes), { auth, ...payer() })
  assert.deepEqual(again, descriptor)

  const downloading = payer()
  const got = await Actions.downloadBlob(server.http, descriptor.sha256, downloading)
  assertBytes(Buffer.from(await got.arrayBuffer()), bytes)
  assert.equal(downloading.invoices.length, 1)
  const proof = preimageOf(downloading.invoices[0])
  // One that breaks is repeated, and a player asks for one range after the other.
  const repeated = headers => fetch(`${server.http}/${descriptor.sha256}`, { headers: { 'x-lightning': proof, ...headers } })
  assert.equal((await repeated({})).status, 200)
  assert.equal((await repeated({ range: 'bytes=0-9' })).status, 206)

  const free = payer()
  const small = bytesOf(100)
  await Actions.uploadBlob(server.http, blobOf(small), { auth: await createUploadAuth(signer, blobOf(small)), ...free })
  assert.equal((await fetch(`${server.http}/${sha256(small)}`)).status, 200)
  assert.equal(free.invoices.length, 0)
})

test('a proof must be of a paid invoice for just this', { skip }, async () => {
  const signer = user()
  const [bytes, other] = [bytesOf(), bytesOf()]
  const asked = await request(signer, 'HEAD', '/upload', bytes, { headers: { 'x-content-length': '1000' } })
  const invoice = await invoiceOf(asked)
  assert.equal(await invoiceOf(await request(signer, 'PUT', '/upload', bytes)), invoice, 'the same invoice')
  const upload = paid(signer, bytes)
  await refused(await upload(randomBytes(32).toString('hex')), 400, /no invoice of this server/)
  await refused(await upload('paid'), 400, /64 hexadecimal digits/)
  // The preimage of an invoice that nobody has paid, and of one that was paid for something else.
  await refused(await upload(preimageOf(invoice)), 400, /has not received this payment/)
  const elsewhere = await invoiceOf(await request(signer, 'PUT', '/upload', other))
  await refused(await upload(preimageOf(elsewhere)), 400, /something else/)
  wallet.pay(elsewhere)
  await refused(await upload(preimageOf(elsewhere)), 400, /something else/)

  wallet.pay(invoice)
  const proof = preimageOf(invoice)
  // What fails may be repeated.
  const broken = { body: bytesOf(), headers: { 'x-lightning': proof, 'x-sha-256': sha256(bytes) } }
  await refused(await request(signer, 'PUT', '/upload', bytes, broken), 409, /SHA-256/)
  assert.equal((await upload(proof)).status, 201)
  const remove = async () => {
    const auth = await createDeleteAuth(signer, sha256(bytes))
    assert.equal(await Actions.deleteBlob(server.http, sha256(bytes), { auth }), true)
  }
  await remove()
  // For ten minutes it is good for the very same again: the answer may have been lost.
  assert.equal((await upload(proof)).status, 201)
  await refused(await paid(signer, other)(proof), 400, /something else/)
  await remove()
  assert.notEqual(await invoiceOf(await request(signer, 'PUT', '/upload', bytes)), invoice)
})

test('parts are paid once, pictures as uploads, and mirrors by what their origin says', { skip }, async () => {
  const signer = user()
  const bytes = bytesOf(2000)
  const part = (offset, headers) =>
    request(signer, 'PATCH', `/${sha256(bytes)}`, bytes, {
      body: bytes.subarray(offset, offset + 1000),
      headers: { 'upload-type': 'text/plain', 'upload-length': '2000', 'upload-offset': `${offset}`, ...headers },
    })
  const invoice = await invoiceOf(await part(0))
  wallet.pay(invoice)
  const header = { 'x-lightning': preimageOf(invoice) }
  assert.equal((await part(0, header)).status, 204)
  assert.equal((await part(1000)).status, 201)
  const deletion = await createDeleteAuth(signer, sha256(bytes))
  assert.equal(await Actions.deleteBlob(server.http, sha256(bytes), { auth: deletion }), true)
  assert.equal((await part(0, header)).status, 204, 'the same again')

  const picture = png(10, 20, 30)
  const media = headers => request(signer, 'PUT', '/media', picture, { verb: 'media', headers: { 'content-type': 'image/png', ...headers } })
  const bill = await invoiceOf(await media())
  wallet.pay(bill)
  assert.equal((await media({ 'x-lightning': preimageOf(bill) })).status, 201)
  assert.ok((await media({ 'x-lightning': preimageOf(bill) })).ok, 'the same again')

  const far = bytesOf(3000)
  const origin = createServer((_, response) => response.writeHead(200, { 'content-length': far.length }).end(far))
  await new Promise(resolve => origin.listen(0, '127.0.0.1', resolve))
  const blob = { url: `http://127.0.0.1:${origin.address().port}/${sha256(far)}`, sha256: sha256(far), size: far.length }
  const auth = await createUploadAuth(signer, blobOf(far))
  const mirroring = payer()
  const mirrored = await Actions.mirrorBlob(server.http, blob, { auth, ...mirroring })
  origin.close()
  assert.equal(mirrored.sha256, blob.sha256)
  assert.equal(wallet.invoices.get(hashOf(mirroring.invoices[0])).amount, sats(far.length) * 1000)
})

test('on the page a wallet extension pays', { skip }, async t => {
  const { pubkey, sign } = author()
  const [bytes, other] = [bytesOf(), bytesOf()]
  const page = await pages.open(t, browser, server.http, '/blossom', {
    prepare: async page => {
      await page.exposeFunction('signByTest', draft => sign(draft))
      await page.exposeFunction('payByTest', invoice => (wallet.pay(invoice), preimageOf(invoice)))
      await page.addInitScript(pubkey => {
        window.nostr = { getPublicKey: async () => pubkey, signEvent: window.signByTest }
        window.webln = { enable: async () => {}, sendPayment: async invoice => ({ preimage: await window.payByTest(invoice) }) }
      }, pubkey)
    },
  })
  const choose = (name, buffer) => page.locator('#choose').setInputFiles({ name, mimeType: 'application/octet-stream', buffer })
  await choose('paid', bytes)
  await page.getByText('Stored, 1,000 bytes').waitFor()
  await page.evaluate(() => delete window.webln)
  await choose('not paid', other)
  await page.getByText('Not uploaded: it costs something').waitFor()
  const hasOwn = async hash => (await (await fetch(`${server.http}/list/${pubkey}`)).json()).some(blob => blob.sha256 === hash)
  await until('the paid one', () => hasOwn(sha256(bytes)))
  assert.equal(await hasOwn(sha256(other)), false)
  // That a payment is required is no fault.
  assert.deepEqual(page.faults.filter(fault => !/status of 402/.test(fault)), [])
})

test('what was paid on the page is not paid again when the upload breaks', { skip }, async t => {
  const { pubkey, sign } = author()
  const bytes = bytesOf()
  let payments = 0
  const page = await pages.open(t, browser, server.http, '/blossom', {
    prepare: async page => {
      await page.exposeFunction('signByTest', draft => sign(draft))
      await page.exposeFunction('payByTest', invoice => (payments++, wallet.pay(invoice), preimageOf(invoice)))
      await page.addInitScript(pubkey => {
        window.nostr = { getPublicKey: async () => pubkey, signEvent: window.signByTest }
        window.webln = { enable: async () => {}, sendPayment: async invoice => ({ preimage: await window.payByTest(invoice) }) }
      }, pubkey)
    },
  })
  const choose = () => page.locator('#choose').setInputFiles({ name: 'paid', mimeType: 'application/octet-stream', buffer: bytes })
  const kept = () => page.evaluate(() => Object.keys(localStorage).filter(name => name.startsWith('blossom-payment-')).length)
  await page.route('**/upload', route => (route.request().method() === 'PUT' ? route.abort() : route.continue()))
  await choose()
  await page.getByText('keep the proof of payment').waitFor()
  assert.equal(await kept(), 1)
  await page.unroute('**/upload')
  await page.reload()
  await choose()
  await page.getByText('Stored, 1,000 bytes').waitFor()
  assert.deepEqual([payments, await kept()], [1, 0])
})

test('without its wallet the server says so, and who has paid loses nothing', { skip }, async () => {
  const signer = user()
  const bytes = bytesOf()
  const invoice = await invoiceOf(await request(signer, 'PUT', '/upload', bytes))
  wallet.isAway = true
  const unanswered = await request(signer, 'PUT', '/upload', bytesOf())
  assert.ok(Number(unanswered.headers.get('retry-after')) > 0)
  await refused(unanswered, 503, /wallet/)
  wallet.pay(invoice)
  await refused(await paid(signer, bytes)(preimageOf(invoice)), 503, /wallet/)
  wallet.isAway = false
  let stored
  for (let tries = 0; tries < 20 && stored?.status !== 201; tries++) stored = await paid(signer, bytes)(preimageOf(invoice))
  assert.equal(stored.status, 201)
})
