// A panic in one object ends the wasm instance of all objects of its isolate: the sessions of the others survive.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, metrics, sign } from './client.mjs'
import { startEdge } from './host.mjs'

/** The Worker, with a path that has the effect of a trap in another object of the isolate. */
const trapping = `
import Entry from './index.js'
export * from './index.js'
export default {
  async fetch(request, env, ctx) {
    if (new URL(request.url).pathname !== '/trap') return new Entry(ctx, env).fetch(request)
    dispatchEvent(new ErrorEvent('error', { error: new WebAssembly.RuntimeError('unreachable') }))
    return new Response('trapped')
  },
}`

let edge
before(async () => {
  edge = await startEdge({ main: trapping })
})
after(() => edge.stop())

test('subscriptions survive a panic elsewhere, in the middle of publishing', async () => {
  const [reader, writer] = [await Client.open(edge.url), await Client.open(edge.url)]
  await reader.req('sub', { kinds: [1] })
  for (let n = 0; n < 20; n++) {
    const note = sign()
    assert.deepEqual(await writer.publish(note), [true, ''])
    assert.equal((await reader.event('sub')).id, note.id)
    if (n % 3 === 1) assert.equal(await (await fetch(`${edge.http}/trap`)).text(), 'trapped')
  }
  assert.deepEqual(await reader.rest(), [])
  assert.ok((await metrics(edge.http)).relay_sessions_restored_total >= 2)
  await Promise.all([reader.close(), writer.close()])
})
