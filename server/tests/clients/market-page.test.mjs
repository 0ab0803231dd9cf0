// The market's page in Chromium, as people see it, and without scripts, as it is made; with a provider who means ill.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { SimplePool } from 'nostr-tools/pool'
import * as pages from './browser.mjs'
import { zapReceipt } from './receipts.mjs'
import { author, isOtherHost, now, startRelay, until, within } from './relay.mjs'

const skip = process.env.RELAY_URL || isOtherHost ? 'the edge has no market' : false
const HOSTILE = '<script>window.hit = 1</script>\u202e"><img src=x onerror=hit=2>'

let server, browser, pool
const publish = event => within('OK', Promise.all(pool.publish([server.url], event)))

/** A provider with an announcement, and jobs of as many customers, `failed` of them not delivered; `paid` of them pay 21 sats. */
async function provider(name, { kinds = ['5050'], amount = 'free', about = '', tags = [], customers = 0, failed = 0, paid = 0, online = false, days = [] } = {}) {
  const it = author()
  const content = JSON.stringify({ name, about, amount })
  await publish(it.sign({ kind: 31990, created_at: now() - 5000, content, tags: [['d', 'x'], ...kinds.map(kind => ['k', kind]), ...tags.map(tag => ['t', tag])] }))
  for (let n = 0; n < customers + failed; n++) {
    const customer = author()
    const request = customer.sign({ kind: 5050, created_at: now() - 7200, content: '', tags: [['p', it.pubkey]] })
    await publish(request)
    if (n < customers) await publish(it.sign({ kind: 6050, created_at: now() - 7195, content: 'done', tags: [['e', request.id], ['p', request.pubkey], ['amount', '21000']] }))
    if (n < paid) await publish(zapReceipt({ customer, provider: it, zapped: request, msat: 21_000, at: now() - 7190 }))
  }
  // Earlier days of one customer, the seconds of a job of each; the last one is yesterday's.
  const regular = author()
  for (const [at, seconds] of days.entries()) {
    const created_at = now() - (days.length - at) * 86_400
    const request = regular.sign({ kind: 5050, created_at, content: '', tags: [['p', it.pubkey]] })
    await publish(request)
    await publish(it.sign({ kind: 6050, created_at: created_at + seconds, content: 'done', tags: [['e', request.id], ['p', request.pubkey]] }))
  }
  if (online) await publish(it.sign({ kind: 11998, created_at: now(), content: '', tags: [['status', 'online']] }))
  return it
}

before(async () => {
  if (skip) return
  server = await startRelay()
  browser = await pages.launch()
  pool = new SimplePool()
  await provider('Painter', { kinds: ['5100', '5050'], amount: '120', about: 'Pictures of everything, in oil.', tags: ['art', 'images'], customers: 3, paid: 2, online: true })
  await provider('Scribe', { amount: '5', customers: 1, failed: 2 })
  await provider('Singer', { kinds: ['5250'], amount: '40', tags: ['music'], days: [3, 4, 4, 9, 30, 42, 25, 12, 7, 5, 4, 5, 3, 2, 3] })
  await provider(HOSTILE, { kinds: ['5001'], amount: 'flexible', about: `${HOSTILE}{{style}}${'W'.repeat(500)}`, tags: [HOSTILE.slice(0, 60)] })
  for (let n = 0; n < 51; n++) await provider(`Nobody ${n}`, { kinds: ['5999'], amount: '1' })
  await until('figures', async () => {
    const { providers } = await (await fetch(`${server.http}/market`)).json()
    const of = name => providers.find(one => one.offers[0].name === name)?.figures
    return of('Painter')?.jobs_delivered === 3 && of('Painter').jobs_paid === 2 && of('Scribe')?.jobs_failed === 2 && of('Singer')?.jobs_delivered === 15
  })
})
after(async () => {
  await browser?.close()
  pool?.destroy()
  await server?.stop()
})

const open = (t, path, options) => pages.open(t, browser, server.http, path, options)

for (const scheme of pages.SCHEMES) {
  for (const [name, path] of [['market', '/market?sort=customers&q=i'], ['market-hostile', '/market?kind=5001'], ['market-empty', '/market?q=nothing+fits']]) {
    test(`${name}, ${scheme}`, { skip }, async t => {
      const page = await open(t, path, { scheme })
      await pages.looksWell(page, name, scheme)
      await pages.tabs(page, 'a[href], input, select, button')
    })
  }
}

test('a reader filters and sorts without scripts, by the keyboard alone', { skip }, async t => {
  const page = await open(t, '/', { javaScriptEnabled: false })
  await page.locator('a[href="/market"]').click()
  assert.match(await page.title(), /^Market of /)
  const names = () => page.locator('.cards h2').allInnerTexts()
  assert.equal((await names())[0], 'Painter')
  await page.getByLabel('Topic').focus()
  await page.keyboard.type('Art')
  await page.keyboard.press('Enter')
  await page.waitForURL(/tag=Art/)
  assert.deepEqual(await names(), ['Painter'])
  assert.equal(await page.getByLabel('Topic').inputValue(), 'Art')
  const figures = await page.locator('.cards dl').innerText()
  for (const want of ['120 sats', '100.0', '5\u00a0s', 'Customers\n3', 'Paying customers\n2', 'Jobs paid\n2', 'Paid\n42 sats']) assert.ok(figures.includes(want), `${want}: ${figures}`)

  await page.getByLabel('Topic').fill('')
  await page.getByLabel('Kind of job').fill('5050')
  await page.getByLabel('Sort by').selectOption('cheapest')
  await page.getByRole('button', { name: 'Show' }).click()
  await page.waitForURL(/sort=price/)
  assert.deepEqual(await names(), ['Scribe', 'Painter'])
  await page.getByLabel('Price up to').fill('5000')
  await page.getByLabel('Online').selectOption('offline')
  await page.getByRole('button', { name: 'Show' }).click()
  await page.waitForURL(/online=false/)
  assert.deepEqual(await names(), ['Scribe'])
  await page.getByRole('link', { name: 'Proof of Scribe' }).click()
  const proof = JSON.parse(await page.locator('body').innerText())
  assert.deepEqual([proof.figures.jobs_delivered, proof.figures.jobs_failed, proof.jobs.length], [1, 2, 3])
  assert.deepEqual(page.faults, [])
})

test('a sparkline shows the course of the latency', { skip }, async t => {
  const page = await open(t, '/market?tag=music', { javaScriptEnabled: false })
  const drawn = page.getByRole('img', { name: 'Median time by day' })
  assert.equal(await drawn.getAttribute('aria-label'), 'Median time by day, of the last 30: from 2 s to 42 s')
  assert.equal(await drawn.locator('rect').count(), 15)
  const { width, height } = await drawn.boundingBox()
  assert.ok(width > 60 && height > 15, `${width} x ${height}`)
})

test('pages of a long list keep the filter', { skip }, async t => {
  const page = await open(t, '/market?kind=5999&q=nobody')
  const first = await page.locator('.cards h2').allInnerTexts()
  await page.getByRole('link', { name: 'More' }).click()
  await page.waitForURL(/cursor=/)
  const second = await page.locator('.cards h2').allInnerTexts()
  assert.deepEqual([first.length, second.length, new Set([...first, ...second]).size], [50, 1, 51])
  assert.equal(await page.getByLabel('Kind of job').inputValue(), '5999')
})

test('what a provider writes is text, and a wrong field is named', { skip }, async t => {
  const page = await open(t, '/market?kind=5001')
  const seen = await page.evaluate(() => ({ hit: window.hit, scripts: document.scripts.length, pictures: document.images.length }))
  assert.deepEqual(seen, { hit: undefined, scripts: 0, pictures: 0 })
  assert.ok((await page.locator('body').innerText()).includes('<script>window.hit = 1</script>'))
  const response = await page.goto(`${server.http}/market?max_msat=1.5&q=%22%3E%3Cb%3E`)
  assert.equal(response.status(), 400)
  assert.match(await page.getByRole('alert').innerText(), /^max_msat must be a number/)
  assert.equal(await page.getByLabel('Search').inputValue(), '"><b>')
})
