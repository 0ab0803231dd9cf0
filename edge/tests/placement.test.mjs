// Placement of objects: location hints and jurisdictions as they reach the platform. Local workerd ignores hints and rejects
// jurisdictions, so most of this uses a namespace that records how it is called.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client, sign } from './client.mjs'
import { startEdge } from './host.mjs'

/** The Worker over a namespace that lists at /asked how each stub was made; its jurisdictions are prefixes of names. */
const recording = `
import Entry from './index.js'
export * from './index.js'
const asked = []
class DurableObjectNamespace {
  constructor(real, jurisdiction) {
    Object.assign(this, { real, within: jurisdiction })
  }
  jurisdiction(name) {
    return new DurableObjectNamespace(this.real, name)
  }
  idFromName(name) {
    return { name, jurisdiction: this.within }
  }
  get(id, options = {}) {
    asked.push({ ...id, ...options })
    return this.real.getByName([id.jurisdiction, id.name].join('/'))
  }
  getByName(name, options) {
    return this.get(this.idFromName(name), options)
  }
}
export default {
  async fetch(request, env, ctx) {
    if (new URL(request.url).pathname === '/asked') return Response.json(asked.splice(0))
    return new Entry(ctx, { ...env, RELAY: new DurableObjectNamespace(env.RELAY) }).fetch(request)
  },
}`

const cases = [
  ['no variables', {}, {}],
  ['empty variables', { RELAY_LOCATION_HINT: '', RELAY_JURISDICTION: ' ' }, {}],
  ['a hint', { RELAY_LOCATION_HINT: 'weur' }, { locationHint: 'weur' }],
  ['a jurisdiction', { RELAY_JURISDICTION: 'eu' }, { jurisdiction: 'eu' }],
  ['both', { RELAY_LOCATION_HINT: 'weur', RELAY_JURISDICTION: 'eu' }, { locationHint: 'weur', jurisdiction: 'eu' }],
]
for (const [name, vars, placed] of cases) {
  test(`sockets, health and metrics use the object with its placement: ${name}`, async () => {
    const edge = await startEdge({ main: recording, vars })
    const asked = async () => (await fetch(`${edge.http}/asked`)).json()
    const object = { name: 'relay-0000', ...placed }
    const client = await Client.open(edge.url)
    assert.deepEqual(await asked(), [object], 'a socket')
    assert.deepEqual(await client.publish(sign()), [true, ''])
    assert.deepEqual(await asked(), [], 'its messages go straight to the object')
    // They see what was stored through the socket.
    assert.equal((await (await fetch(`${edge.http}/health`)).json()).events, 1)
    assert.deepEqual(await asked(), [object], 'health')
    assert.match(await (await fetch(`${edge.http}/metrics`)).text(), /^relay_store_events 1$/m)
    assert.deepEqual(await asked(), [object], 'metrics')
    await fetch(edge.http)
    assert.deepEqual(await asked(), [], 'the page needs no object')
    await client.close()
    await edge.stop()
  })
}

test('a jurisdiction that the platform does not support is an error, not ignored', async () => {
  // The Worker as it is, over the namespace of local workerd, which has no jurisdictions.
  const edge = await startEdge({ vars: { RELAY_JURISDICTION: 'eu' } })
  await assert.rejects(Client.open(edge.url))
  const response = await fetch(`${edge.http}/health`)
  assert.equal(response.status, 503)
  assert.match((await response.json()).status, /^relay-0000: .*[Jj]urisdiction/)
  await edge.stop()
})
