// Turns are shared by client address (CF-Connecting-IP): one with many busy connections does not starve another.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, now, sign } from './client.mjs'
import { startWorkerd } from './host.mjs'

const EVENTS = 1_000
const CONNECTIONS = 20

let relay
before(async () => {
  // A scan of all events takes forty steps.
  relay = await startWorkerd({ config: { limits: { step_cost_max: EVENTS / 40, requests_per_minute_max: 0 } } })
  const client = await Client.open(relay.url)
  const begun = now()
  for (let n = 0; n < EVENTS; n += 50) {
    const notes = Array.from({ length: 50 }, (_, m) => sign({ created_at: begun - n - m }))
    for (const note of notes) client.send('EVENT', note)
    for (const note of notes) assert.ok((await client.ok(note.id))[2])
  }
  await client.close()
})
after(() => relay.stop())

/** Reads every note and matches none. */
const SCAN = { kinds: [1], '#d': [''] }

const open = address => Client.open(relay.url, { headers: { 'cf-connecting-ip': address } })

/** How many scans of 20 busy connections of 203.0.113.1 end while one scan of `address` runs. */
async function scansDuringOneOf(address) {
  const busy = await Promise.all(Array.from({ length: CONNECTIONS }, () => open('203.0.113.1')))
  const client = await open(address)
  let [ended, isOver] = [0, false]
  const reached = Promise.withResolvers()
  const loops = busy.map(async connection => {
    while (!isOver) {
      assert.deepEqual(await connection.req('scan', SCAN), [])
      ended += 1
      // Their first scans have all ended together and their second ones have begun.
      if (ended === CONNECTIONS) reached.resolve()
    }
  })
  await reached.promise
  const before = ended
  assert.deepEqual(await client.req('scan', SCAN), [])
  const during = ended - before
  isOver = true
  await Promise.all(loops)
  await Promise.all([client, ...busy].map(connection => connection.close()))
  return during
}

test('a scan of another address ends before those of 20 busy connections, one of the same address with them', async () => {
  const others = await scansDuringOneOf('203.0.113.2')
  const own = await scansDuringOneOf('203.0.113.1')
  console.log(`scans that ended meanwhile: ${others} of another address, ${own} of the same address`)
  // Half of all turns are its own: twenty others are each at a twentieth of a scan.
  assert.ok(others < CONNECTIONS / 2, `${others} scans`)
  // Its turns are one in twenty-one.
  assert.ok(own >= CONNECTIONS / 2, `${own} scans`)
})
