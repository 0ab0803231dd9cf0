// The market on the edge, in workerd: figures follow from what is published, survive the loss of memory and restarts, are those of the
// native server, can be recomputed by anybody, and cost few rows.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { npubEncode } from 'nostr-tools/nip19'
import { counting } from './agents_client.mjs'
import { Client, generateSecretKey, getPublicKey, now, sign, sleep } from './client.mjs'
import { serverBinary, startEdge, startWorkerd } from './host.mjs'
import { startServer } from './server.mjs'

const HOSTILE = '<script>window.hit = 1</script>"><img src=x onerror=hit=2>'

let edge, client
const publish = async (...events) => {
  events.forEach(event => client.send('EVENT', event))
  for (const event of events) assert.ok((await client.ok(event.id))[2])
}
const market = async (query = '', { http } = edge) => await (await fetch(`${http}/market${query}`)).json()
/** The entry of a provider, when it fits. */
const until = async (npub, fits, host = edge) => {
  for (let tries = 0; tries < 300; tries++) {
    const found = (await market('', host)).providers.find(each => each.npub === npub)
    if (found && fits(found)) return found
    await sleep(100)
  }
  assert.fail(JSON.stringify(await market('', host)))
}
const counts = ({ figures }) => [figures.jobs_delivered, figures.jobs_failed, figures.jobs_pending]
const verify = (npub, host = edge) =>
  new Promise(done => {
    const args = ['market', 'verify', host.http, npub, '--json']
    execFile(serverBinary(), args, (error, stdout, stderr) => done({ code: error?.code ?? 0, stdout, stderr }))
  })

const job = (provider, at = now() - 7_200, more = []) =>
  sign({ kind: 5050, created_at: at, tags: [['p', getPublicKey(provider)], ...more] }, generateSecretKey())
const result = (provider, to, more = []) =>
  sign({ kind: 6050, created_at: to.created_at + 5, tags: [['e', to.id], ...more] }, provider)
const offer = (provider, content, more = []) =>
  sign({ kind: 31990, content: JSON.stringify(content), tags: [['d', 'x'], ['k', '5050'], ...more] }, provider)
const beat = (provider, at = now()) => sign({ kind: 11998, created_at: at, tags: [['status', 'online']] }, provider)

before(async () => {
  edge = await startEdge({ main: counting })
  client = await Client.open(edge.url)
})
after(async () => {
  await client?.close()
  await edge?.stop()
})

test('figures follow from events, also without memory, and anybody can recompute them', async () => {
  const provider = generateSecretKey()
  const npub = npubEncode(getPublicKey(provider))
  const jobs = [job(provider), job(provider), job(provider), job(provider, now() - 10)]
  const expires = ['expiration', String(now() + 600)]
  await publish(...jobs, offer(provider, { name: HOSTILE, about: 'Works', amount: '3' }, [['t', 'art']]))
  await publish(result(provider, jobs[0]), result(provider, jobs[1], [expires]), beat(provider))
  const counted = found => `${counts(found)}` === '2,1,1' && found.online
  await until(npub, counted)
  assert.ok(await edge.evict('market', 'MarketDurableObject'), 'it was in memory')
  await edge.evict()
  const found = await until(npub, counted)
  assert.equal(found.figures.latency_seconds_median_of_customers, 5)
  assert.equal(found.figures.success_ratio_mean_of_customers, 0.666)
  for (const [query, count] of [['?kind=5050&tag=ART&max_msat=3000&q=works', 1], ['?kind=5001', 0], ['?online=false', 0], ['?q=%25', 0]]) {
    assert.equal((await market(query)).providers.length, count, query)
  }
  for (const [query, field] of [['kind=1', 'kind'], ['max_msat=x', 'max_msat'], ['sort=luck', 'sort'], ['cursor=x', 'cursor']]) {
    const response = await fetch(`${edge.http}/market?${query}`)
    assert.deepEqual([response.status, (await response.json()).field], [400, field], query)
  }
  assert.equal((await fetch(`${edge.http}/market/npub1x/proof`)).status, 400)
  assert.equal((await fetch(`${edge.http}/market/${getPublicKey(generateSecretKey())}/proof`)).status, 404)
  const right = await verify(npub)
  assert.equal(right.code, 0, right.stdout + right.stderr)
  const { recomputed, missing, left_out } = JSON.parse(right.stdout)
  assert.deepEqual([recomputed.jobs_delivered, missing, left_out], [2, [], []])
})

test('the page is text, whatever a provider says', async () => {
  const answer = await fetch(`${edge.http}/market`, { headers: { accept: 'text/html' } })
  const html = await answer.text()
  assert.match(answer.headers.get('content-type'), /^text\/html/)
  assert.match(answer.headers.get('content-security-policy'), /default-src 'none'/)
  assert.equal(answer.headers.get('access-control-allow-origin'), '*')
  assert.ok(html.includes('&lt;script&gt;window.hit') && !html.includes('<script>window.hit'), html)
  assert.ok((await (await fetch(edge.http, { headers: { accept: 'text/html' } })).text()).includes('href="/market"'))
})

test('a provider is offline when its heartbeat is old, though nothing is published', async () => {
  const provider = generateSecretKey()
  const npub = npubEncode(getPublicKey(provider))
  // It counts for 420 seconds.
  await publish(offer(provider, { name: 'sleeper' }), beat(provider, now() - 405))
  await until(npub, found => found.online)
  await until(npub, found => !found.online)
  const listed = async query => (await market(query)).providers.some(each => each.npub === npub)
  assert.deepEqual([await listed('?online=true'), await listed('?online=false')], [false, true])
  await publish(beat(provider))
  await until(npub, found => found.online)
})

test('what a job, a heartbeat and a page cost', async () => {
  const at = async () => (await fetch(`${edge.http}/counts`)).json()
  const [provider, customer] = [generateSecretKey(), generateSecretKey()]
  const npub = npubEncode(getPublicKey(provider))
  await publish(offer(provider, { name: 'counted' }), beat(provider, now() - 60))
  await until(npub, found => found.online)
  // Until the alarms of other tests are over, and what the relay's object confirms.
  const atRest = async () => {
    for (let before; ; ) {
      const counted = await at()
      if (JSON.stringify(counted) === before) return counted
      before = JSON.stringify(counted)
      await sleep(4_000)
    }
  }
  const cost = async (work, per = 1, counts = atRest) => {
    const before = await counts()
    await work()
    const after = await counts()
    const names = ['market rows', 'market rows read', 'market/events', 'market/ask', 'market alarm', 'market alarms set', 'relay rows']
    return Object.fromEntries(names.map(name => [name, ((after[name] ?? 0) - (before[name] ?? 0)) / per]))
  }
  const ask = () => sign({ kind: 5050, tags: [['p', getPublicKey(provider)]] }, customer)
  const costs = {}
  costs.job = await cost(async () => {
    const asked = ask()
    await publish(asked)
    await publish(result(provider, asked))
  })
  const MANY = 200
  costs.many = await cost(async () => {
    for (let n = 0; n < MANY; n += 20) {
      const jobs = Array.from({ length: 20 }, ask)
      await publish(...jobs)
      await publish(...jobs.map(asked => result(provider, asked)))
    }
  }, MANY)
  costs.heartbeat = await cost(() => publish(beat(provider)))
  const get = (path, accept = 'application/json') => async () => {
    const answer = await fetch(edge.http + path, { headers: { accept } })
    assert.equal(answer.status, 200)
    await answer.text()
  }
  await publish(...Array.from({ length: 50 }, (_, n) => offer(generateSecretKey(), { name: `worker ${n}` })))
  await atRest()
  costs.page = await cost(get('/market', 'text/html'), 1, at)
  costs.list = await cost(get('/market'), 1, at)
  costs.found = await cost(get('/market?q=counted'), 1, at)
  costs.proof = await cost(get(`/market/${npub}/proof`), 1, at)
  const again = async () => {
    for (let n = 0; n < 10; n++) await get('/market?sort=price')()
  }
  costs.again = await cost(again, 1, at)
  console.log(costs)
  // `bench/edge.md` has these figures.
  assert.ok(costs.job['market rows'] <= 21, `${costs.job['market rows']} rows for a job alone`)
  assert.ok(costs.many['market rows'] <= 14, `${costs.many['market rows']} rows for one of many jobs`)
  assert.equal(costs.heartbeat['market rows'], 3)
  // Of each provider its row, its heartbeat, its announcement and its key in their indexes.
  for (const name of ['page', 'list']) assert.ok(costs[name]['market rows read'] <= 7 * 55, `${costs[name]['market rows read']} rows`)
  assert.ok(costs.proof['market rows read'] <= 7 * 210, `${costs.proof['market rows read']} rows for a proof of 201 jobs`)
  for (const name of ['page', 'list', 'found', 'proof', 'again']) assert.equal(costs[name]['market rows'], 0, `${name} writes nothing`)
  assert.equal(costs.again['market/ask'], 1, 'from memory')
})

test('restarts, and what was stored before there was a market', async t => {
  const persist = mkdtempSync(join(tmpdir(), 'relay-edge-market-'))
  t.after(() => rmSync(persist, { recursive: true, force: true }))
  const provider = generateSecretKey()
  const npub = npubEncode(getPublicKey(provider))
  const jobs = [job(provider), job(provider)]
  const then = [offer(provider, { name: 'old' }), ...jobs, result(provider, jobs[0])]
  const run = async (config, work) => {
    const host = await startWorkerd({ persist, config })
    const own = await Client.open(host.url)
    try {
      await work(host, own)
    } finally {
      own.socket.terminate()
      await host.stop()
    }
  }
  await run({ market: { enabled: false } }, async (host, own) => {
    for (const event of then) assert.deepEqual(await own.publish(event), [true, ''])
    assert.equal((await fetch(`${host.http}/market`)).status, 404)
  })
  await run(undefined, async (host, own) => {
    // The relay's object wakes up with a request.
    await own.rest()
    await until(npub, found => `${counts(found)}` === '1,1,0', host)
    // Killed at any moment after the OK.
    assert.deepEqual(await own.publish(result(provider, jobs[1])), [true, ''])
  })
  await run(undefined, async (host, own) => {
    await own.rest()
    await until(npub, found => `${counts(found)}` === '2,0,0', host)
    const right = await verify(npub, host)
    assert.equal(right.code, 0, right.stdout + right.stderr)
  })
})

test('both hosts answer the same', async t => {
  const server = await startServer({ config: {} })
  t.after(() => server.stop())
  const other = await Client.open(server.url)
  const own = await startEdge()
  t.after(() => own.stop())
  const here = await Client.open(own.url)
  const providers = Array.from({ length: 4 }, generateSecretKey)
  const events = providers.flatMap((provider, n) => {
    const jobs = Array.from({ length: 3 + n }, () => job(provider))
    const answered = jobs.slice(n).map(asked => result(provider, asked))
    return [...jobs, ...answered, offer(provider, { name: `worker ${n}`, amount: String(n) }, [['t', `t${n % 2}`]]), beat(provider)]
  })
  for (const event of events) {
    for (const to of [other, here]) assert.ok((await to.publish(event))[0])
  }
  for (const host of [server, own]) {
    await until(npubEncode(getPublicKey(providers[3])), found => `${counts(found)}` === '3,3,0' && found.online, host)
  }
  const without = document => JSON.parse(JSON.stringify(document, (name, value) => (name === 'as_of' ? undefined : value)))
  const both = async path => {
    const [first, second] = await Promise.all([server, own].map(async ({ http }) => {
      const answer = await fetch(http + path)
      return [answer.status, answer.headers.get('content-type'), answer.headers.get('cache-control'), without(await answer.json())]
    }))
    assert.deepEqual(first, second, path)
    return second[3]
  }
  for (const query of ['', '?sort=customers', '?sort=latency', '?sort=price', '?kind=5050&max_msat=2000', '?tag=t1', '?q=WORKER%202', '?online=true', '?online=maybe', '?limit=0']) {
    await both(`/market${query}`)
  }
  const { next } = await both('/market?limit=2')
  assert.equal((await both(`/market?limit=2&cursor=${next}`)).providers.length, 2)
  for (const provider of providers) await both(`/market/${npubEncode(getPublicKey(provider))}/proof`)
  for (const client of [other, here]) await client.close()
})
