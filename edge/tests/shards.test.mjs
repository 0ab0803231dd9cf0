// What an object receives from the objects of other shards. This version has one shard, so the test plays another one;
// native tests have two objects (edge/tests/native/shards.rs).
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, sign } from './client.mjs'
import { startEdge } from './host.mjs'

/** The Worker, with a path that sends its object the request of another object. */
const besides = `
import Entry from './index.js'
export * from './index.js'
export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url)
    if (url.pathname !== '/from-another-shard') return new Entry(ctx, env).fetch(request)
    const { method } = request
    return env.RELAY.getByName('relay-0000').fetch('http://relay-0000/live', { method, body: await request.text() || null })
  },
}`

let edge
before(async () => {
  edge = await startEdge({ main: besides })
})
after(() => edge.stop())

const hand = (body, method = 'POST') => fetch(`${edge.http}/from-another-shard`, { method, body })

/** As the engine writes it. */
const canonical = ({ id, pubkey, created_at, kind, tags, content, sig }) =>
  JSON.stringify({ id, pubkey, created_at, kind, tags, content, sig })

test('ephemeral events of another shard reach subscribers, also after hibernation', async () => {
  const reader = await Client.open(edge.url)
  await reader.req('sub', { kinds: [20001] })
  for (const asleep of [false, true]) {
    if (asleep) assert.ok(await edge.evict())
    const events = [20001, 20002, 20001].map(kind => sign({ kind, content: 'in two\nlines' }))
    const response = await hand(events.map(canonical).join('\n'))
    assert.equal(response.status, 200, await response.text())
    for (const event of [events[0], events[2]]) {
      const received = await reader.event('sub')
      assert.deepEqual(received, JSON.parse(canonical(event)))
    }
  }
  assert.deepEqual(await reader.rest(), [])
  assert.equal((await (await fetch(`${edge.http}/health`)).json()).events, 0)
  await reader.close()
})

test('an invalid list of events is refused, and clients cannot forward events', async () => {
  assert.equal((await hand(`${canonical(sign({ kind: 20001 }))}\n{}`)).status, 400)
  assert.equal((await hand('')).status, 400)
  assert.equal((await hand(undefined, 'GET')).status, 404)
  const direct = await fetch(`${edge.http}/live`, { method: 'POST', body: canonical(sign({ kind: 20001 })) })
  // To the Worker it is the name of a blob.
  assert.equal(direct.status, 405)
})
