// The platform's limits, and many sockets.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, generateSecretKey, getPublicKey, metrics, now, sign } from './client.mjs'
import { startEdge } from './host.mjs'

let edge
before(async () => {
  const limits = { message_bytes_max: 30_000_000, event_bytes_max: 30_000_000, content_chars_max: 2_400_000 }
  edge = await startEdge({ config: { limits } })
})
after(() => edge.stop())

test('an event that does not fit in a row of 2 MB is refused with a message, and the rest of its batch is stored', async () => {
  const client = await Client.open(edge.url)
  const notes = [sign(), sign({ content: 'x'.repeat(2_100_000) }), sign()]
  notes.forEach(note => client.send('EVENT', note))
  const [small, large, other] = await Promise.all(notes.map(note => client.ok(note.id)))
  assert.deepEqual([small[2], large[2], other[2]], [true, false, true])
  assert.match(large[3], /^invalid: the event has \d+ bytes, this relay takes up to 1998976$/)
  // Just below, in one row.
  assert.deepEqual(await client.publish(sign({ content: 'x'.repeat(1_998_000) })), [true, ''])
  await client.close()
})

test('filters of 10,000 authors, with 100 parameters a statement', async () => {
  const client = await Client.open(edge.url)
  const people = Array.from({ length: 5 }, () => generateSecretKey())
  const notes = people.map((person, n) => sign({ created_at: now() - n }, person))
  for (const note of notes) assert.deepEqual(await client.publish(note), [true, ''])
  const others = Array.from({ length: 9_995 }, (_, n) => (n + 1).toString(16).padStart(64, '0'))
  const authors = [...others, ...people.map(getPublicKey)]
  const found = await client.req('all', { authors, kinds: [1], limit: 10 })
  assert.deepEqual(found.map(event => event.id), notes.map(event => event.id))
  // A connection may hold 20,000 values, of which the kind above is one, as is each filter.
  const ids = [...others.slice(3), ...notes.map(note => note.id)]
  assert.equal((await client.req('ids', { ids })).length, 5)
  const live = sign({}, people[3])
  assert.deepEqual(await client.publish(live), [true, ''])
  assert.equal((await client.event('all')).id, live.id)
  await assert.rejects(client.req('more', { kinds: [1] }), /CLOSED.*blocked: .* \(limit 20000\)/)
  await client.close()
})

test('a thousand sockets, each with its subscriptions, through hibernation', async () => {
  const clients = []
  for (let n = 0; n < 1_000; n += 50) {
    clients.push(...(await Promise.all(Array.from({ length: 50 }, () => Client.open(edge.url)))))
  }
  await Promise.all(
    clients.map(async (client, n) => {
      await client.req('own', { kinds: [1], '#t': [`to ${n}`] })
      await client.req('all', { kinds: [1], '#t': ['to all'] })
    }),
  )
  const before = await metrics(edge.http)
  assert.equal(before.relay_connections, 1_000)
  // Including what the tests above have left. The platform allows 128 MB.
  const megabytes = before.relay_memory_bytes / 2 ** 20
  assert.ok(megabytes > 1 && megabytes < 20, `${megabytes} MB of WebAssembly memory`)
  for (let round = 0; round < 3; round++) {
    if (round) assert.ok(await edge.evict())
    const [all, own] = [sign({ tags: [['t', 'to all']] }), sign({ tags: [['t', `to ${round}`]] })]
    assert.deepEqual(await clients[999].publish(own), [true, ''])
    assert.deepEqual(await clients[999].publish(all), [true, ''])
    await Promise.all(clients.map(async client => assert.equal((await client.event('all')).id, all.id)))
    assert.equal((await clients[round].event('own')).id, own.id)
  }
  const after = await metrics(edge.http)
  assert.equal(after.relay_sessions_restored_total, 1_000)
  assert.equal(after.relay_connections, 1_000)
  assert.ok(clients.every(client => client.frames.length === 0))
  await Promise.all(clients.map(client => client.close()))
})
