// The page /blossom in Chromium, with a key in an extension (NIP-07) and without one: limits, and the visitor's own files.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { BlossomClient } from 'nostr-tools/nipb7'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { PlainKeySigner } from 'nostr-tools/signer'
import { assertBytes } from './bytes.mjs'
import * as pages from './browser.mjs'
import { png } from './png.mjs'
import { now, startRelay, until, withoutFiles } from './relay.mjs'

const skip = withoutFiles
/** What the Tab key reaches. */
const CONTROLS = ':is(a[href], button, input):not([hidden], [hidden] *, dialog *)'
const KIB = 1024

let server, browser
before(async () => {
  if (skip) return
  server = await startRelay({
    config: { blossom: { open: true, blob_bytes_max: 64 * KIB, deny_types: ['text/html'] } },
    env: { RELAY_BLOSSOM__BLOB_BYTES_MAX: String(64 * KIB), RELAY_BLOSSOM__DENY_TYPES: 'text/html' },
  })
  browser = await pages.launch()
})
after(async () => {
  await browser?.close()
  await server?.stop()
})

/** An extension with a key; `signed` is what it was asked to sign. It refuses while `isUnwilling`. */
function extension() {
  const key = generateSecretKey()
  const own = { key, pubkey: getPublicKey(key), signed: [], isUnwilling: false }
  own.prepare = async page => {
    await page.exposeFunction('signByTest', draft => {
      if (own.isUnwilling) return null
      own.signed.push(draft)
      return finalizeEvent(draft, key)
    })
    await page.addInitScript(pubkey => {
      const signEvent = async draft => {
        const event = await window.signByTest(draft)
        if (!event) throw new Error('the visitor said no')
        return event
      }
      window.nostr = { getPublicKey: async () => pubkey, signEvent }
    }, own.pubkey)
  }
  own.client = new BlossomClient(server.http, new PlainKeySigner(key))
  own.upload = (bytes, type) => own.client.uploadFile(new File([bytes], 'file', { type }))
  return own
}

const open = (t, { at = server, ...options } = {}) => pages.open(t, browser, at.http, '/blossom', options)
const sha256 = bytes => createHash('sha256').update(bytes).digest('hex')
const isThere = async hash => (await fetch(`${server.http}/${hash}`, { method: 'HEAD' })).status === 200
const said = page => page.locator('#said')
const cards = page => page.locator('#list li')
const choose = (page, ...files) => page.locator('#choose').setInputFiles(files)
const file = (name, content, mimeType = 'text/plain') => ({ name, mimeType, buffer: Buffer.from(content) })
const waitFor = (locator, text) => until(`${text}`, async () => text.test((await locator.allInnerTexts()).join('\n')))

describe('the page of files', { skip }, () => {
  for (const scheme of pages.SCHEMES) {
    test(`without an extension it tells limits and how to upload, ${scheme}`, async t => {
      const page = await open(t, { scheme })
      const text = await page.locator('main').innerText()
      for (const shown of [server.http, '64 KiB', 'free', 'text/html', 'until you delete them']) assert.ok(text.includes(shown), shown)
      await page.getByText('no extension that keeps one').waitFor()
      assert.equal(await page.locator('#with').isVisible(), false)
      await pages.looksWell(page, 'files-without', scheme)
      await pages.tabs(page, CONTROLS)
    })

    test(`with files, ${scheme}`, async t => {
      const visitor = extension()
      for (const [n, type] of ['image/png', 'image/png', 'video/mp4', 'application/octet-stream', 'application/vnd.openxmlformats-officedocument.wordprocessingml.document'].entries()) {
        await visitor.upload(type === 'image/png' ? png(90 * n, 60, 180) : `${scheme} ${n}`, type)
      }
      const page = await open(t, { scheme, prepare: visitor.prepare })
      await page.locator('#show').click()
      await waitFor(said(page), /5 files/)
      await choose(page, file('notes of a very long name, that does not fit on a phone.txt', `notes ${scheme}`), file('page.html', scheme, 'text/html'))
      await waitFor(page.locator('#uploads'), /Stored/)
      await waitFor(page.locator('#uploads'), /Not uploaded/)
      await until('both pictures', () => page.evaluate(() => [...document.images].every(image => image.complete && image.naturalWidth)))
      page.faults = page.faults.filter(fault => !/status of 415/.test(fault))
      await pages.looksWell(page, 'files-with', scheme)
      await pages.tabs(page, CONTROLS)
      await page.getByRole('button', { name: 'Delete' }).first().click()
      await pages.looksWell(page, 'files-sure', scheme)
    })
  }

  test('a visitor by keyboard uploads, sees it listed, copies its link and deletes it', async t => {
    const visitor = extension()
    const page = await open(t, { prepare: visitor.prepare, permissions: ['clipboard-read', 'clipboard-write'] })
    await page.locator('#show').press('Enter')
    await waitFor(said(page), /no files here yet/)
    const bytes = png(1, 2, 3)
    const hash = sha256(bytes)
    const chooser = page.waitForEvent('filechooser')
    await page.locator('#choose').press('Enter')
    await (await chooser).setFiles([{ name: 'picture.png', mimeType: 'image/png', buffer: bytes }])
    await waitFor(page.locator('#uploads'), /picture\.png[^]*Stored/)
    assertBytes(Buffer.from(await (await fetch(`${server.http}/${hash}`)).arrayBuffer()), bytes)

    // What was signed holds for this file, here, and for five minutes.
    const [{ kind, created_at, tags }] = visitor.signed
    assert.equal(kind, 24242)
    assert.ok(Math.abs(created_at - now()) < 60)
    assert.deepEqual(tags, [['t', 'upload'], ['expiration', String(created_at + 300)], ['server', '127.0.0.1'], ['x', hash]])
    assert.equal(visitor.signed.length, 1)

    assert.equal(await cards(page).count(), 1)
    assert.match(await cards(page).innerText(), /image\/png/)
    const link = page.getByRole('link', { name: 'Open', exact: true })
    assert.equal(await link.getAttribute('href'), `/${hash}.png`)
    const copies = page.getByRole('button', { name: 'Copy link' })
    await copies.press('Enter')
    await until('copied', async () => (await page.evaluate(() => navigator.clipboard.readText())) === `${server.http}/${hash}.png`)

    // Escape keeps the file, and the focus is where it was.
    const deletes = page.locator('#list').getByRole('button', { name: 'Delete' })
    await deletes.press('Enter')
    await page.getByRole('dialog').waitFor()
    await page.keyboard.press('Escape')
    assert.equal(await deletes.evaluate(element => element === document.activeElement), true)
    assert.equal(await isThere(hash), true)
    await deletes.press('Enter')
    await page.getByRole('button', { name: 'Delete it' }).press('Enter')
    await waitFor(said(page), /no files here yet/)
    assert.equal(await isThere(hash), false)
    assert.deepEqual(visitor.signed[1].tags.filter(([name]) => 'tx'.includes(name)), [['t', 'delete'], ['x', hash]])
    assert.deepEqual(page.faults, [])
  })

  test('files are dropped anywhere, an empty one too; the same ones again are found there', async t => {
    const visitor = extension()
    const page = await open(t, { prepare: visitor.prepare })
    const drop = () =>
      page.evaluate(() => {
        const dataTransfer = new DataTransfer()
        for (const content of ['', 'one', 'two']) dataTransfer.items.add(new File([content], 'dropped.txt', { type: 'text/plain' }))
        for (const type of ['dragover', 'drop']) document.querySelector('h1').dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }))
      })
    await drop()
    await until('all stored', async () => (await page.locator('#uploads').getByText(/^Stored/).count()) === 3)
    // They are listed without being asked for, the newest first.
    await waitFor(said(page), /3 files/)
    assert.equal(await cards(page).count(), 3)
    await drop()
    await until('all found', async () => (await page.locator('#uploads').getByText('It was here already').count()) === 3)
    assert.equal(await cards(page).count(), 3)
    assert.deepEqual(page.faults, [])
  })

  test('a long list comes in pages, newest first, and goes on after deletions', async t => {
    const visitor = extension()
    for (let n = 0; n < 30; n++) await visitor.upload(`listed ${n}`, 'text/plain')
    const listed = (await visitor.client.list()).map(each => each.sha256)
    const page = await open(t, { prepare: visitor.prepare })
    const shown = () => cards(page).evaluateAll(all => all.map(each => each.dataset.sha256))
    await page.locator('#show').click()
    await waitFor(said(page), /newest 24 files/)
    assert.deepEqual(await shown(), listed.slice(0, 24))
    // The last one is where the next page begins.
    await cards(page).last().getByRole('button', { name: 'Delete' }).click()
    await page.getByRole('button', { name: 'Delete it' }).click()
    await waitFor(said(page), /newest 23 files/)
    await page.getByRole('button', { name: 'Show more' }).click()
    await waitFor(said(page), /29 files, newest first/)
    assert.deepEqual(await shown(), listed.filter((_, n) => n !== 23))
    assert.equal(await page.getByRole('button', { name: 'Show more' }).count(), 0)
    assert.equal(await page.evaluate(() => document.activeElement.closest('li')?.dataset.sha256), listed[24])
    assert.deepEqual(page.faults, [])
  })

  test('refusals are told in words, by the page, the extension and the server', async t => {
    const visitor = extension()
    const page = await open(t, { prepare: visitor.prepare })
    const refused = async (given, words) => {
      await choose(page, given)
      await waitFor(page.locator('#uploads li').last(), words)
      assert.match(await page.getByRole('alert').last().innerText(), words)
    }
    await refused(file('large.bin', Buffer.alloc(64 * KIB + 1)), /at most 64 KiB/)
    assert.equal(visitor.signed.length, 0, 'nothing is signed for a file that is too large')
    visitor.isUnwilling = true
    await refused(file('unsigned.txt', 'unsigned'), /the visitor said no/)
    visitor.isUnwilling = false
    assert.deepEqual(page.faults, [])
    await refused(file('page.html', 'a page', 'text/html'), /text\/html/)
    assert.equal(await isThere(sha256('a page')), false)
    page.faults = []
    await page.context().setOffline(true)
    await refused(file('offline.txt', 'offline'), /cannot be reached/)
    await page.context().setOffline(false)
  })

  test('where only listed keys may upload, and keys see only their own files, the page says so and signs for the list', async t => {
    const visitor = extension()
    const listed = extension()
    const closed = await startRelay({
      config: { blossom: { open: false, list_public: false, upload_pubkeys: [listed.pubkey] } },
      env: { RELAY_BLOSSOM__OPEN: 'false', RELAY_BLOSSOM__LIST_PUBLIC: 'false', RELAY_BLOSSOM__UPLOAD_PUBKEYS: listed.pubkey },
    })
    t.after(closed.stop)
    const page = await open(t, { at: closed, prepare: visitor.prepare })
    assert.ok((await page.locator('main').innerText()).includes('keys that the operator has listed'))
    await page.locator('#show').click()
    await waitFor(said(page), /no files here yet/)
    assert.deepEqual(visitor.signed[0].tags.filter(([name]) => 'tx'.includes(name)), [['t', 'list']])
    await choose(page, file('stranger.txt', 'of a stranger'))
    await waitFor(page.getByRole('alert'), /operator has listed/)

    const own = await open(t, { at: closed, prepare: listed.prepare })
    await choose(own, file('own.txt', 'of a listed key'))
    await waitFor(said(own), /1 file/)
    assert.deepEqual(own.faults, [])
  })

  test('names and types of files are text', async t => {
    const visitor = extension()
    const page = await open(t, { prepare: visitor.prepare })
    const script = n => `<img src=x onerror="window.hit=${n}"><script>window.hit=${n}</script>`
    const blob = (n, more) => ({ url: `${server.http}/${String(n).repeat(64)}.txt`, sha256: String(n).repeat(64), size: 1, type: 'text/plain', uploaded: 1, nip94: [], ...more })
    const hostile = [
      blob(1, { type: script(1), url: 'javascript:window.hit=1' }),
      blob(2, { type: `\u202e${'W'.repeat(300)}`, url: `${server.http}/2.txt"onfocus="hit=2"autofocus x="` }),
      blob(3, { type: 'image/png"onerror="hit=3', nip94: [['thumb', 'https://elsewhere.example/who-reads-this.png'], ['thumb']] }),
      blob(4, { sha256: `"]${script(4)}` }),
    ]
    await page.route('**/list/*', route => route.fulfill({ json: hostile }))
    await page.locator('#show').click()
    await waitFor(said(page), /3 files/)
    await choose(page, file(`${script(5)}\u202egnp.${'W'.repeat(200)}`, script(5)))
    await waitFor(page.locator('#uploads'), /Stored/)
    const seen = await page.evaluate(() => ({
      hit: window.hit,
      scripts: document.scripts.length,
      handlers: [...document.querySelectorAll('main *')].flatMap(element => element.getAttributeNames()).filter(name => /^on/.test(name)),
      schemes: [...new Set(Array.from(document.links, link => link.protocol))].filter(scheme => !/^https?:$/.test(scheme)),
    }))
    assert.deepEqual(seen, { hit: undefined, scripts: 1, handlers: [], schemes: [] })
    assert.ok((await cards(page).allInnerTexts()).join().includes(script(1)))
    assert.ok((await page.locator('#uploads').innerText()).includes(script(5)))
    page.faults = page.faults.filter(fault => !/status of 404/.test(fault))
    for (const scheme of pages.SCHEMES) {
      await page.emulateMedia({ colorScheme: scheme })
      await pages.looksWell(page, 'files-hostile', scheme)
    }
  })

  test('a script that got into the page would do nothing', async t => {
    const page = await open(t)
    await page.evaluate(() => {
      const script = document.createElement('script')
      script.textContent = 'window.hit = 7'
      document.body.append(script)
      return fetch('https://elsewhere.example/').catch(() => {})
    })
    assert.equal(await page.evaluate(() => window.hit), undefined)
    for (const what of [/inline script/, /connect-src/]) assert.ok(page.faults.some(fault => what.test(fault)), `${what}: ${page.faults}`)
    for (const fault of page.faults) assert.match(fault, /^console: .*Content Security Policy|^console: .*elsewhere/)
  })
})
