// Connections by client address (CF-Connecting-IP), in workerd.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import WebSocket from 'ws'
import { Client, metrics, sleep } from './client.mjs'
import { startWorkerd } from './host.mjs'

const MAX = 3

let relay
before(async () => {
  const network = { connections_per_address_max: MAX, exempt_addresses: ['198.51.100.0/24'] }
  relay = await startWorkerd({ config: { network } })
})
after(() => relay.stop())

const headers = address => ({ headers: { 'cf-connecting-ip': address } })
const open = address => Client.open(relay.url, headers(address))

/** The status, headers and body with which a handshake is refused. */
const refusal = address =>
  new Promise((done, fail) => {
    const socket = new WebSocket(relay.url, headers(address))
    socket.on('open', () => fail(new Error(`${address} is connected`)))
    socket.on('error', () => {})
    socket.on('unexpected-response', async (_, response) => {
      const body = (await response.toArray()).join('')
      done({ status: response.statusCode, headers: response.headers, body })
    })
  })

/** As the native server answers it. */
async function assertRefused(address) {
  const { status, headers, body } = await refusal(address)
  assert.deepEqual([status, headers['retry-after']], [429, '30'])
  assert.equal(headers['x-reason'], 'too many connections from your address')
  assert.deepEqual(JSON.parse(body), { error: 'too many connections from your address' })
}

/** Opens a connection once there is a place for it: that its socket has closed reaches the object a little later. */
async function openSoon(address) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await open(address)
    } catch (error) {
      if (attempt === 100) throw error
      await sleep(50)
    }
  }
}

test('connections of an address are limited, also after hibernation, and a closed socket frees its place', async () => {
  const all = []
  for (const addresses of [['203.0.113.1'], ['2001:db8::1', '2001:db8::2', '2001:db8::ffff']]) {
    const at = n => addresses[n % addresses.length]
    for (let n = 0; n < MAX; n++) all.push(await open(at(n)))
    await assertRefused(at(MAX))
  }
  all.push(await open('203.0.113.2'), await open('2001:db8:0:1::1'))
  const full = await metrics(relay.http)
  assert.equal(full.relay_connections_of_busiest_address, MAX)
  assert.equal(full.relay_connections_refused_by_address_total, 2)

  await all[0].close()
  all[0] = await openSoon('203.0.113.1')
  await assertRefused('203.0.113.1')

  // workerd evicts the object after ten idle seconds.
  await sleep(13_000)
  await assertRefused('203.0.113.1')
  const woken = await metrics(relay.http)
  assert.equal(woken.relay_sessions_restored_total, all.length)
  assert.equal(woken.relay_connections_refused_by_address_total, 1, 'counters start again')
  // One closes while the object is not in memory, or with nothing but its close to wake it.
  await sleep(13_000)
  await all[1].close()
  all[1] = await openSoon('203.0.113.1')
  await assertRefused('203.0.113.1')
  await Promise.all(all.map(client => client.close()))
})

test('exempt addresses, and clients that no address is known of, have no limit', async () => {
  const clients = await Promise.all(Array.from({ length: 3 * MAX }, (_, n) => open(`198.51.100.${n % 2}`)))
  for (let n = 0; n < 3 * MAX; n++) clients.push(await Client.open(relay.url))
  for (const client of clients) assert.deepEqual(await client.req('none', { ids: [] }), [])
  await Promise.all(clients.map(client => client.close()))
})
