// Copying from other relays: the object fetches what is missing from the native relay, whatever it loses meanwhile, and leaves a relay
// alone that floods it.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { WebSocketServer } from 'ws'
import { Client, generateSecretKey, getPublicKey, now, sign, sleep } from './client.mjs'
import { serverBinary, startEdge } from './host.mjs'
import { startServer } from './server.mjs'

/** So many are signed here, or, for a measurement, these JSON lines are imported: `PULL_FILE`. */
let EVENTS = Number(process.env.PULL_EVENTS ?? 2_000)
const FILE = process.env.PULL_FILE
const TOKEN = 'for-this-test'
const PATIENCE_MS = FILE ? 1_200_000 : 180_000

let server, guarded
before(async () => {
  // It gives what is guarded here to anybody.
  const limits = { address_events_per_minute_max: 0, events_per_minute_max: 0 }
  server = await startServer({ config: { limits, policy: { guarded_kinds: [] } } })
  const authors = Array.from({ length: 20 }, generateSecretKey)
  const at = now() - EVENTS
  guarded = sign({ kind: 1059, tags: [['p', getPublicKey(authors[0])]], created_at: at })
  const events = [guarded]
  if (FILE) {
    const relay = (...args) => {
      const done = spawnSync(serverBinary(), [...args, '--json', '--data', server.data], { encoding: 'utf8' })
      assert.equal(done.status, 0, done.stderr)
      return JSON.parse(done.stdout)
    }
    relay('import', FILE)
    EVENTS = relay('info').events + 1
  }
  while (!FILE && events.length < EVENTS) {
    events.push(sign({ created_at: at + events.length, tags: [['t', `t${events.length % 7}`]] }, authors[events.length % 20]))
  }
  // Not before all are signed, so that the relay's pings are answered.
  const client = await Client.open(server.url)
  for (let n = 0; n < events.length; n += 100) {
    const some = events.slice(n, n + 100)
    some.forEach(event => client.send('EVENT', event))
    for (const event of some) assert.ok((await client.ok(event.id))[2])
  }
  await client.close()
})
after(() => server.stop())

const start = (peers, given = {}) =>
  startEdge({ config: { sync: { peers }, blossom: { enabled: false } }, vars: { METRICS_TOKEN: TOKEN }, ...given })

/** The metrics of a Worker, with those that name other relays. */
async function metrics(edge) {
  const response = await fetch(`${edge.http}/metrics`, { headers: { authorization: `Bearer ${TOKEN}`, connection: 'close' } })
  const lines = (await response.text()).split('\n').filter(line => line && !line.startsWith('#'))
  return Object.fromEntries(lines.map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.split(' ').at(-1))]))
}

const of = (name, url) => `relay_pull_${name}_total{peer="${url}"}`

/** Metrics once `is` holds for them. */
async function until(edge, is, what) {
  const end = Date.now() + PATIENCE_MS
  for (;;) {
    const values = await metrics(edge)
    if (is(values)) return values
    if (Date.now() > end) assert.fail(`${what}: ${JSON.stringify(Object.fromEntries(Object.entries(values).filter(([name]) => /pull|store_events/.test(name))))}`)
    await sleep(200)
  }
}

/** A way to the server on which so many bytes come back on each connection, and then nothing. */
async function gate() {
  const own = { bytes: Infinity }
  const sockets = new Set()
  const listener = createServer(client => {
    const relay = connect(Number(new URL(server.url).port), '127.0.0.1')
    let left = own.bytes
    relay.on('data', data => {
      client.write(data.subarray(0, left))
      left = Math.max(0, left - data.length)
      if (left === 0) relay.pause()
    })
    client.on('data', data => relay.write(data))
    for (const [one, other] of [[client, relay], [relay, client]]) {
      sockets.add(one)
      one.on('error', () => {})
      one.on('close', () => (sockets.delete(one), other.destroy()))
    }
  })
  await new Promise(done => listener.listen(0, '127.0.0.1', done))
  own.url = `ws://127.0.0.1:${listener.address().port}`
  own.stop = () => {
    sockets.forEach(socket => socket.destroy())
    listener.close()
  }
  return own
}

test('everything arrives, and once it is here nothing is asked for again', async () => {
  const edge = await start([{ url: server.url, every_seconds: 60 }])
  try {
    const begun = Date.now()
    const done = await until(edge, values => values[of('comparisons', server.url)] >= 1, 'the comparison ends')
    const seconds = (Date.now() - begun) / 1_000
    assert.equal(done.relay_store_events, EVENTS)
    assert.equal(done[of('events_stored', server.url)], EVENTS)
    assert.equal(done[of('events_wrong', server.url)], 0)
    const per = name => {
      const rows = Object.entries(done).filter(([key]) => key.startsWith(`relay_rows_${name}_total{`))
      return rows.map(([key, value]) => `${key.split('"')[1]} ${value}`).join(', ')
    }
    console.log(`${EVENTS} events in ${seconds} s, ${done[of('slices', server.url)]} slices, ${done.relay_alarms_total} alarms, ` +
      `${done.relay_ticks_total} ticks, ${done.relay_commits_total} commits, ${done[of('bytes', server.url)]} bytes; ` +
      `rows written: ${per('written')}; read: ${per('read')}; memory ${done.relay_memory_bytes}`)
    // A guarded event is copied, and guarded here too.
    const client = await Client.open(edge.url)
    client.send('REQ', 'guarded', { ids: [guarded.id] })
    const [verb, , message] = await client.take(frame => ['CLOSED', 'EOSE'].includes(frame[0]) && frame[1] === 'guarded')
    assert.ok(verb === 'CLOSED' ? message.startsWith('auth-required: ') : verb === 'EOSE')
    const found = await client.req('one', { limit: 5 })
    assert.equal(found.length, 5)
    // The next comparison begins by itself, and finds what has been published there since.
    const publisher = await Client.open(server.url)
    const later = sign({ content: 'later' })
    assert.deepEqual(await publisher.publish(later), [true, ''])
    await publisher.close()
    client.send('REQ', 'live', { ids: [later.id] })
    const copied = await until(edge, values => values[of('comparisons', server.url)] >= 2, 'another comparison')
    assert.equal((await client.event('live')).id, later.id, 'subscribers get it')
    assert.equal(copied[of('events_duplicate', server.url)], 0)
    assert.equal(copied.relay_store_events, EVENTS + 1)
    await client.close()
    // They name the operator's relays.
    const open = await fetch(`${edge.http}/metrics`, { headers: { connection: 'close' } })
    assert.equal(open.status, 401)
    await open.arrayBuffer()
  } finally {
    await edge.stop()
  }
})

// An object with an open connection is not evicted; tests/native/pull.rs loses its memory at any moment.
test('it goes on where it was when the Worker is restarted', async () => {
  const persist = mkdtempSync(join(tmpdir(), 'relay-edge-pull-'))
  const way = await gate()
  way.bytes = 250_000
  let edge = await start([{ url: way.url, every_seconds: 3_600 }], { persist })
  try {
    const some = await until(edge, values => values.relay_store_events > 100, 'some arrive')
    assert.ok(some.relay_store_events < EVENTS, 'it is lost in between')
    await edge.stop()
    way.bytes = Infinity
    edge = await start([{ url: way.url, every_seconds: 3_600 }], { persist })
    const done = await until(edge, values => values[of('comparisons', way.url)] >= 1, 'the comparison ends')
    assert.ok(done.relay_store_events >= EVENTS)
    const here = done.relay_store_events - done[of('events_stored', way.url)]
    assert.ok(here >= some.relay_store_events, 'those before the restart were not stored again')
    assert.ok(done[of('events_duplicate', way.url)] < 600, `${done[of('events_duplicate', way.url)]} for nothing`)
  } finally {
    await edge.stop()
    way.stop()
    rmSync(persist, { recursive: true, force: true })
  }
})

test('a relay that floods, or sends a large message, is left alone while clients are served', async () => {
  for (const [name, flood] of [
    ['notices', socket => setInterval(() => {
      for (let n = 0; n < 200; n++) socket.send('["NOTICE","hello"]')
    }, 5)],
    ['a large message', socket => socket.send(`["NOTICE","${'x'.repeat(5 << 20)}"]`)],
    ['events of nobody', socket => setInterval(() => {
      for (let n = 0; n < 20; n++) socket.send(JSON.stringify(['EVENT', 'nobody', guarded]))
    }, 5)],
  ]) {
    const hostile = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    let connections = 0
    hostile.on('connection', socket => {
      connections++
      const timer = flood(socket)
      socket.on('error', () => {})
      socket.on('close', () => clearInterval(timer))
    })
    await new Promise(done => hostile.on('listening', done))
    const url = `ws://127.0.0.1:${hostile.address().port}`
    const edge = await start([{ url, every_seconds: 60 }])
    try {
      const cut = await until(edge, values => values[of('cut_offs', url)] === 1, name)
      assert.equal(cut.relay_store_events, 0)
      const client = await Client.open(edge.url)
      assert.deepEqual(await client.publish(sign()), [true, ''])
      await client.close()
      await sleep(2_000)
      assert.equal(connections, 1, `${name}: it is not asked again`)
    } finally {
      await edge.stop()
      hostile.close()
    }
  }
})
