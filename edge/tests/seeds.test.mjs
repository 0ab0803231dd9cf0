// Secret seeds: std has no entropy on wasm32, so every table whose keys clients choose is seeded by the runtime.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client, sign } from './client.mjs'
import { startEdge } from './host.mjs'

/** The Worker, with a path that lists the random bytes that were drawn in the isolate, each draw in hexadecimal. */
const recording = `
import Entry from './index.js'
export * from './index.js'
const draws = []
const draw = crypto.getRandomValues.bind(crypto)
crypto.getRandomValues = array => {
  draw(array)
  draws.push(Array.from(array, byte => byte.toString(16).padStart(2, '0')).join(''))
  return array
}
export default {
  async fetch(request, env, ctx) {
    if (new URL(request.url).pathname === '/draws') return Response.json(draws)
    return new Entry(ctx, env).fetch(request)
  },
}`

test('an object draws a seed for its machine and one for its verifier each time it wakes up', async () => {
  const edge = await startEdge({ main: recording })
  const client = await Client.open(edge.url)
  assert.deepEqual(await client.publish(sign()), [true, ''])
  const draws = async () => (await fetch(`${edge.http}/draws`)).json()
  const seeds = list => list.filter(({ length }) => length === 64 || length === 32)
  // 32 bytes for the machine, 16 for the verifier's tables, 8 for the key of the socket.
  const first = await draws()
  assert.deepEqual(first.map(({ length }) => length / 2).toSorted((a, b) => a - b), [8, 16, 32])
  assert.ok(await edge.evict())
  assert.deepEqual(await client.publish(sign()), [true, ''])
  const second = (await draws()).slice(first.length)
  assert.deepEqual(second.map(({ length }) => length / 2).toSorted((a, b) => a - b), [16, 32])
  assert.equal(new Set([...seeds(first), ...second]).size, 4, 'each is new')
  await client.close()
  await edge.stop()
})
