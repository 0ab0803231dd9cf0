// What an event costs, by the cursor's own count: rows are what Durable Objects bill.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, generateSecretKey, getPublicKey, metrics, now, sign } from './client.mjs'
import { startEdge } from './host.mjs'

const WRITTEN = 'relay_rows_written_total{for="events"}'
const READ = 'relay_rows_read_total{for="requests"}'

let edge, client
before(async () => {
  edge = await startEdge()
  client = await Client.open(edge.url)
})
after(async () => {
  await client.close()
  await edge.stop()
})

const hex = n => n.toString(16).padStart(64, '0')

test('a note with five indexed tags writes nine rows', async () => {
  const tags = [['e', hex(1)], ['e', hex(2)], ['p', hex(3)], ['p', hex(4)], ['t', 'cost']]
  await client.publish(sign({ tags }))
  const before = await metrics(edge.http)
  const notes = Array.from({ length: 100 }, () => sign({ tags }))
  notes.forEach(note => client.send('EVENT', note))
  for (const note of notes) assert.ok((await client.ok(note.id))[2])
  const after = await metrics(edge.http)
  const written = (after[WRITTEN] - before[WRITTEN]) / notes.length
  console.log(`rows written for a note with five tags: ${written}`)
  assert.ok(written <= 9, `${written} rows`)
  const upkeep = 'relay_rows_written_total{for="upkeep"}'
  assert.equal(after[upkeep], before[upkeep], 'and nothing else writes')
})

test('common filters read at most three rows for each event they return', async () => {
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
    assert.ok(read <= 3 * found, `${name}: ${read} rows for ${found} events`)
  }
})
