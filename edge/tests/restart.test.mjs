// Restarts with persisted state: acknowledged events are there, however the process ended.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Client, metrics, now, sign } from './client.mjs'
import { startEdge, startWorkerd } from './host.mjs'

test('killed in the middle of publishing, nothing acknowledged is lost', async () => {
  const persist = mkdtempSync(join(tmpdir(), 'relay-edge-restart-'))
  const acknowledged = new Set()
  const notes = Array.from({ length: 600 }, (_, n) => sign({ created_at: now() - n, tags: [['t', 'kept']] }))
  for (let round = 0; round < 3; round++) {
    const relay = await startWorkerd({ persist })
    const client = await Client.open(relay.url)
    const part = notes.slice(round * 200, round * 200 + 200)
    part.forEach(note => client.send('EVENT', note))
    // Killed after some, after the first, and after almost all are acknowledged.
    for (const note of part.slice(0, [100, 1, 190][round])) {
      const [accepted, message] = (await client.ok(note.id)).slice(2)
      assert.ok(accepted, message)
    }
    await relay.stop()
    await client.closed
    for (const [verb, id, accepted] of client.frames) if (verb === 'OK' && accepted) acknowledged.add(id)
    part.slice(0, [100, 1, 190][round]).forEach(note => acknowledged.add(note.id))
  }
  const relay = await startWorkerd({ persist })
  const client = await Client.open(relay.url)
  const found = await client.req('all', { '#t': ['kept'], limit: 1000 })
  const missing = [...acknowledged].filter(id => !found.some(event => event.id === id))
  assert.deepEqual(missing, [])
  assert.ok(acknowledged.size >= 291)
  // Some are stored, some are not: sent again, each is stored once.
  for (const note of notes) client.send('EVENT', note)
  for (const note of notes) assert.ok((await client.ok(note.id))[2])
  assert.equal((await client.req('again', { '#t': ['kept'], limit: 1000 })).length, notes.length)
  await client.close()
  await relay.stop()
  rmSync(persist, { recursive: true })
})

test('Miniflare restarts with its persisted state', async () => {
  const persist = mkdtempSync(join(tmpdir(), 'relay-edge-restart-'))
  const note = sign()
  for (const [round, answer] of [[true, ''], [true, 'duplicate: already have this event']].entries()) {
    const edge = await startEdge({ persist })
    const client = await Client.open(edge.url)
    assert.deepEqual(await client.publish(note), answer, `round ${round}`)
    assert.deepEqual((await client.req('q', { ids: [note.id] })).map(event => event.id), [note.id])
    assert.equal((await metrics(edge.http)).relay_store_events, 1)
    await client.close()
    await edge.stop()
  }
  rmSync(persist, { recursive: true })
})
