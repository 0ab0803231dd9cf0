// The cost of an event in rows, as the SQL cursor counts them: Durable Objects are billed by rows.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, generateSecretKey, getPublicKey, metrics, now, sign } from './client.mjs'
import { startEdge } from './host.mjs'

const WRITTEN = 'relay_rows_written_total{purpose="events"}'
const READ = 'relay_rows_read_total{purpose="requests"}'

let edge, client
before(async () => {
  // The index of blobs and the market are consumers of deletions: a row for each, and one for a thousand other events (blossom.test.mjs,
  // market.test.mjs).
  edge = await startEdge({ config: { blossom: { enabled: false }, market: { enabled: false } } })
  client = await Client.open(edge.url)
})
after(async () => {
  await client.close()
  await edge.stop()
})

const hex = n => n.toString(16).padStart(64, '0')

const tags = [['e', hex(1)], ['e', hex(2)], ['p', hex(3)], ['p', hex(4)], ['t', 'cost']]

/** Rows written per note, while `send` publishes `notes`. */
async function written(notes, send) {
  const before = await metrics(edge.http)
  await send()
  const after = await metrics(edge.http)
  const maintenance = 'relay_rows_written_total{purpose="maintenance"}'
  assert.equal(after[maintenance], before[maintenance], 'and nothing else writes')
  assert.equal(after.relay_store_maintenance_failures_total, 0)
  return (after[WRITTEN] - before[WRITTEN]) / notes.length
}

// Runs first, before anything has been flushed to pages.
test('a deletion request writes its own row, one for each deleted event, and one for the tombstones', async () => {
  const person = generateSecretKey()
  const notes = Array.from({ length: 30 }, (_, n) => sign({ tags, content: `note ${n}` }, person))
  for (const note of notes) assert.deepEqual(await client.publish(note), [true, ''])
  const deletion = of => sign({ kind: 5, tags: of.map(note => ['e', note.id]) }, person)
  const single = notes.slice(0, 20).map(note => deletion([note]))
  const rows = await written(single, async () => {
    for (const request of single) assert.deepEqual(await client.publish(request), [true, ''])
  })
  assert.equal(rows, 3)
  const all = [deletion(notes.slice(20))]
  assert.equal(await written(all, () => client.publish(all[0])), 12, 'of them ten for the deleted events')
  assert.match((await client.publish(notes[25]))[1], /^blocked: .*deleted/)
})

test('a note with five indexed tags writes one row and its share of index pages', async () => {
  const notes = Array.from({ length: 3_100 }, () => sign({ tags }))
  const alone = notes.splice(0, 50)
  const rows = await written(alone, async () => {
    for (const note of alone) assert.deepEqual(await client.publish(note), [true, ''])
  })
  assert.equal(rows, 1, 'the event; its index keys are in memory')

  // So many that index keys are flushed several times.
  const many = await written(notes, async () => {
    for (let n = 0; n < notes.length; n += 10) {
      notes.slice(n, n + 10).forEach(note => client.send('EVENT', note))
      for (const note of notes.slice(n, n + 10)) assert.ok((await client.ok(note.id))[2])
    }
  })
  console.log(`rows written for a note with five tags: ${rows} alone, ${many} of ${notes.length} by tens`)
  // How many of ten share a row depends on how the machine takes turns.
  assert.ok(many <= 1.1, `${many} rows`)
})

test('common filters read at most one row for each event they return', async () => {
  const people = Array.from({ length: 20 }, () => generateSecretKey())
  const root = hex(99)
  for (let n = 0; n < 400; n++) {
    const by = people[n % 20]
    const tags = [['t', `t${n % 4}`], ...(n % 4 ? [] : [['e', root]]), ...(n % 5 ? [] : [['p', getPublicKey(people[0])]])]
    client.send('EVENT', sign({ tags, created_at: now() - n, kind: n % 10 === 9 ? 7 : 1 }, by))
  }
  await client.rest()
  const own = await client.req('own', { authors: [getPublicKey(people[1])], limit: 20 })
  const cases = [
    ['newest notes', { kinds: [1], limit: 100 }],
    ['an author', { authors: [getPublicKey(people[2])], limit: 20 }],
    ['notes of an author', { authors: [getPublicKey(people[3])], kinds: [1], limit: 20 }],
    ['a home page of ten', { authors: people.slice(0, 10).map(getPublicKey), kinds: [1], limit: 100 }],
    ['a thread', { '#e': [root], kinds: [1], limit: 100 }],
    ['a hashtag', { '#t': ['t1'], limit: 50 }],
    ['mentions', { '#p': [getPublicKey(people[0])], limit: 50 }],
    ['by ids', { ids: own.map(event => event.id) }],
  ]
  for (const [name, filter] of cases) {
    const before = await metrics(edge.http)
    const found = (await client.req(`cost of ${name}`, filter)).length
    const read = (await metrics(edge.http))[READ] - before[READ]
    console.log(`${name}: ${read} rows for ${found} events, ${(read / found).toFixed(2)} each`)
    assert.ok(found >= 15, `${name}: ${found} events`)
    assert.ok(read <= found, `${name}: ${read} rows for ${found} events`)
  }
})
