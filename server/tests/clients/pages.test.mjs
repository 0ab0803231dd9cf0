// The pages of the relay in Chromium, as people see them: on a phone and on a desktop, by day and by night, with a
// keyboard, and with an agent whose owner means ill. Pictures of them are left in target/pages.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { SimplePool } from 'nostr-tools/pool'
import { audit } from './audit.mjs'
import * as pages from './browser.mjs'
import { startRelayOfOwner } from './owner.mjs'
import { author, now, until } from './relay.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false

const handler = (kind, more) => ({ kind, executor: 'echo', ...more })
const TRANSLATOR = {
  name: 'Babel translator',
  version: '2.1.0',
  about: 'Translates text, notes and web pages into six languages.\n\nIt keeps names, hashtags and links as they are.',
  handlers: [
    handler(5002, {
      inputs: ['text', 'event', 'url'],
      inputs_min: 1,
      outputs: ['text/plain', 'text/markdown'],
      params: { language: { required: true, values: ['en', 'de', 'fr', 'es', 'ja', 'pt'] }, tone: { default: 'neutral' } },
    }),
    handler(5001),
    handler(5050),
  ],
  homepage: 'https://translate.example.com/',
  repository: 'https://git.example.com/people/an-organisation-with-a-long-name/translator-agent',
  license: 'MIT OR Apache-2.0',
  memory: { sessions: true },
  access: { min_pow: 12 },
}
const script = n => `<script>window.hit = ${n}</script>`
const HOSTILE = {
  name: `${script(1)}\u202egnp.WWWWWWWWWWWWWWW`,
  version: '"><img src=x onerror="hit=2">',
  about: `<img src=x onerror=hit=3><style>*{display:none}</style>{{style}}${'W'.repeat(1930)}`,
  license: `</bdi></td></table>${'L'.repeat(100)}`,
  homepage: `https://${'w'.repeat(60)}.example/${'W'.repeat(900)}`,
  repository: 'http://a.example/"onfocus="hit=4"autofocus x="\'><b>',
  picture: 'https://elsewhere.example/who-reads-this.png',
  handlers: [
    handler(5999, {
      inputs_min: 1,
      params: { [`</th>${script(5)}${'p'.repeat(28)}`]: { required: true, values: [`</code>${script(6)}`, 'V'.repeat(200)] } },
    }),
  ],
}
/** The addresses of pages, by the names of their pictures. */
const paths = { relay: '/', empty: '/agents' }

let server, browser
before(async () => {
  if (skip) return
  server = await startRelayOfOwner()
  browser = await pages.launch()
})
after(async () => {
  await browser?.close()
  await server?.stop()
})

function deploy(manifest) {
  const file = join(server.data, 'manifest.json')
  writeFileSync(file, JSON.stringify(manifest))
  return server.run('deploy', file)
}

const open = (t, path, options) => pages.open(t, browser, server.http, path, options)

/** Looks at a page in all widths and both schemes. */
function looksWell(name) {
  for (const scheme of pages.SCHEMES) {
    test(`${name}, ${scheme}`, async t => {
      const page = await open(t, paths[name], { scheme })
      await pages.looksWell(page, name, scheme)
      await pages.tabs(page)
    })
  }
}

describe('pages', { skip }, () => {
  describe('without agents', () => ['relay', 'empty'].forEach(looksWell))

  test('the audit finds planted faults', async t => {
    const page = await open(t, paths.relay)
    const cases = [
      ['no title', () => (document.title = '')],
      ['no language', () => document.documentElement.removeAttribute('lang')],
      ['headings: 1,1', () => document.querySelector('h2').outerHTML = '<h1>Second</h1>'],
      ['a level of headings is left out', () => document.querySelector('h2').outerHTML = '<h3>Third</h3>'],
      ['no alternative', () => document.images[0].removeAttribute('alt')],
      ['no picture', () => document.body.append(new Image())],
      ['no words', () => (document.links[0].textContent = '')],
      ['pixels in', () => (document.querySelector('table').style.width = '2000px')],
      ['beyond the edge', () => (document.querySelector('p').style.marginLeft = '-30px')],
      ['cut off', () => (document.querySelector('code').style.cssText = 'white-space: pre; overflow: auto; width: 50px')],
      ['a small link', () => document.querySelectorAll('nav a').forEach(link => (link.style.cssText = 'padding: 0; line-height: 1'))],
      ['contrast 2', () => (document.querySelector('p').style.color = '#999')],
      ['a translucent background', () => (document.querySelector('th').style.background = '#fff8')],
      ['small print', () => (document.querySelector('footer').style.fontSize = '9px')],
    ]
    for (const [fault, spoil] of cases) {
      await page.reload()
      assert.deepEqual(await page.evaluate(audit, { isDark: false }), [])
      await page.evaluate(spoil)
      const faults = await page.evaluate(audit, { isDark: false })
      assert.ok(faults.some(found => found.includes(fault)), `${fault}: ${faults}`)
    }
    assert.match((await page.evaluate(audit, { isDark: true })).join(), /a page of luminance/)
    for (const spoil of ['* { outline: none !important }', 'nav { visibility: hidden }']) {
      await page.reload()
      await page.addStyleTag({ content: spoil })
      await assert.rejects(pages.tabs(page), assert.AssertionError, spoil)
    }
  })

  test('the manifest of an agent has no address but of web pages', async () => {
    for (const field of ['homepage', 'repository', 'picture']) {
      for (const url of ['javascript:hit=1', 'JavaScript://a.example/%0ahit=1', 'data:text/html,<script>hit=1</script>', 'file:///etc/passwd']) {
        await assert.rejects(deploy({ ...HOSTILE, [field]: url }), new RegExp(field), `${field} ${url}`)
      }
    }
  })

  describe('with agents', () => {
    before(async () => {
      const [translator, hostile, paused] = [await deploy(TRANSLATOR), await deploy(HOSTILE), await deploy({ name: 'über-echo', handlers: [handler(5050)] })]
      paths.list = '/agents'
      paths.agent = `/agent/${translator.npub}`
      paths.hostile = `/agent/${hostile.npub}`
      paths.paused = `/agent/${paused.npub}`
      const pool = new SimplePool()
      const request = author().sign({ kind: 5050, created_at: now(), tags: [['i', 'hello', 'text'], ['p', paused.pubkey]] })
      await Promise.all(pool.publish([server.url], request))
      const isDone = async () => /Jobs done<\/dt><dd>1</.test(await (await fetch(server.http + paths.paused)).text())
      await until('a job that is counted', isDone)
      pool.destroy()
      await server.run('pause', paused.npub)
    })

    for (const name of ['list', 'agent', 'hostile', 'paused']) looksWell(name)

    test('a reader comes from the relay to an agent', async t => {
      const page = await open(t, '/')
      assert.equal(await page.locator('#url').textContent(), server.url)
      await page.locator('a[href="/agents"]').click()
      assert.match(await page.title(), /^Agents of /)
      // Anywhere on its card: the link covers it.
      await page.getByText('Translates text, notes').click({ force: true })
      assert.equal(new URL(page.url()).pathname, paths.agent)
      assert.equal(await page.title(), TRANSLATOR.name)
      const example = JSON.parse(await page.locator('#example').textContent())
      assert.deepEqual(example.tags.slice(0, -1), [['i', 'your text', 'text'], ['param', 'language', 'en']])
      await page.getByRole('link', { name: 'as JSON' }).click()
      assert.equal(JSON.parse(await page.locator('body').innerText()).name, TRANSLATOR.name)
      assert.deepEqual(page.faults, [])
    })

    for (const name of ['list', 'hostile']) {
      test(`${name}: what an owner writes is text`, async t => {
        const page = await open(t, paths[name])
        const seen = await page.evaluate(() => ({
          hit: window.hit,
          scripts: [...document.scripts].filter(script => !script.textContent.startsWith('"use strict"')).length,
          pictures: document.images.length,
          handlers: [...document.querySelectorAll('*')].flatMap(element => element.getAttributeNames()).filter(name => /^on|^autofocus/.test(name)),
          schemes: [...new Set(Array.from(document.links, link => link.protocol))].filter(scheme => !/^https?:$/.test(scheme)),
        }))
        assert.deepEqual(seen, { hit: undefined, scripts: 0, pictures: 0, handlers: [], schemes: [] })
        assert.ok((await page.locator('body').innerText()).includes(script(1)))
      })
    }

    test('a script or a picture that got into a page would do nothing', async t => {
      const page = await open(t, paths.agent)
      const hit = await page.evaluate(() => {
        const script = document.createElement('script')
        script.textContent = 'window.hit = 7'
        const picture = new Image()
        picture.src = 'https://elsewhere.example/who-reads-this.png'
        document.body.append(script, picture)
        return new Promise(done => (picture.onerror = () => done(String(window.hit))))
      })
      assert.equal(hit, 'undefined')
      for (const what of [/inline script/, /image/]) assert.ok(page.faults.some(fault => what.test(fault)), `${what}: ${page.faults}`)
      for (const fault of page.faults) assert.match(fault, /^console: .*Content Security Policy/)
    })
  })
})
