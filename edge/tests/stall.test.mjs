// Clients that stop reading, over real sockets: they are closed after write_stall_seconds without reading, and only then.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { test } from 'node:test'
import { Client, metrics, sign, sleep } from './client.mjs'
import { startWorkerd } from './host.mjs'

const limits = { message_bytes_max: 12_100_000, event_bytes_max: 1_200_000, content_chars_max: 1_000_000 }

/** A relay, a client that reads all notes, and one that publishes and reads. */
async function start(t, write_stall_seconds) {
  const relay = await startWorkerd({ config: { limits, network: { write_stall_seconds } } })
  t.after(() => relay.stop())
  const [reader, other] = [await Client.open(relay.url), await Client.open(relay.url)]
  for (const client of [reader, other]) await client.req('live', { kinds: [1] })
  return { relay, reader, other, taken: () => reader.socket._socket.bytesRead }
}

/** Publishes an incompressible note of 900 KB, and receives it. */
async function publish(other) {
  const note = sign({ content: randomBytes(675_000).toString('base64') })
  assert.deepEqual(await other.publish(note), [true, ''])
  assert.equal((await other.event('live')).id, note.id)
  return note.id
}

/** Publishes until the reader's events wait in the store: the kernel buffers some megabytes before the object notices. */
async function untilBehind(relay, other, ids) {
  while (!(await metrics(relay.http)).relay_subscriptions_lagged_total) {
    assert.ok(ids.length < 60, `not behind after ${ids.length} notes`)
    ids.push(await publish(other))
  }
}

const idsOf = client => client.frames.filter(frame => frame[0] === 'EVENT').map(frame => frame[2].id)

test('a client that reads nothing is closed after write_stall_seconds, and others are served', async t => {
  const { relay, reader, other, taken } = await start(t, 2)
  const [stopped, before, ids] = [performance.now(), taken(), []]
  reader.socket.pause()
  await untilBehind(relay, other, ids)
  const known = performance.now()
  while (!(await metrics(relay.http)).relay_connections_closed_stalled_total) {
    assert.ok(performance.now() - known < 15_000, 'it is never closed')
    ids.push(await publish(other))
    await sleep(200)
  }
  assert.ok(performance.now() - stopped >= 2_000, 'not before its time')
  assert.ok(taken() - before < 200_000, 'it has read no more than Node had asked for')
  const after = await metrics(relay.http)
  assert.equal(after.relay_connections, 1)
  assert.equal(after.relay_connections_closed_stalled_total, 1)
  // The platform keeps the output until the client reads it, so the object still counts it.
  assert.equal(after.relay_sockets_closing, 1)
  assert.ok(after.relay_sockets_closing_bytes > 100_000)
  ids.push(await publish(other))
  // When it reads again, it gets the oldest notes without a gap, then the reason for the close.
  reader.socket.resume()
  assert.deepEqual(await reader.closed, { code: 1008, reason: 'the client is not reading' })
  const seen = idsOf(reader)
  assert.ok(seen.length < ids.length)
  assert.deepEqual(seen, ids.slice(0, seen.length))
  while ((await metrics(relay.http)).relay_sockets_closing) await sleep(50)
  assert.equal((await metrics(relay.http)).relay_sockets_closing_bytes, 0)
  const again = await Client.open(relay.url)
  assert.equal((await again.req('all', { kinds: [1] })).length, ids.length)
})

test('a client that resumes in time, or reads slowly, is not closed and gets everything once', async t => {
  const { relay, reader, other, taken } = await start(t, 4)
  const ids = []
  reader.socket.pause()
  await untilBehind(relay, other, ids)
  await sleep(1_500)
  const [before, from] = [taken(), performance.now()]
  const publishing = (async () => {
    while (ids.length < 18) ids.push(await publish(other))
  })()
  // 64 KB at a time for more than twice write_stall_seconds.
  while (performance.now() - from < 9_000) {
    reader.socket.resume()
    await Promise.race([once(reader.socket._socket, 'data'), reader.closed])
    reader.socket.pause()
    await sleep(60)
  }
  await publishing
  assert.ok(taken() - before > 3_000_000, `${taken() - before} bytes were read slowly`)
  assert.ok(idsOf(reader).length < ids.length - 2, 'and it was behind all the while')
  reader.socket.resume()
  for (const id of ids) assert.equal((await reader.event('live')).id, id)
  assert.deepEqual(await reader.rest(), [])
  assert.equal((await metrics(relay.http)).relay_connections_closed_stalled_total, 0)
  await Promise.all([reader.close(), other.close()])
})
