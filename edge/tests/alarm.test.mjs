// Alarms: expired events and those past the retention are removed, also while no client is connected.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client, metrics, now, sign, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

test('expired events are swept by an alarm, after eviction too', async () => {
  const edge = await startEdge({ config: { store: { sweep_seconds: 1 } } })
  const client = await Client.open(edge.url)
  const at = String(now() + 3)
  for (let n = 0; n < 10; n++) await client.publish(sign({ tags: [['expiration', at]] }))
  await client.publish(sign())
  assert.equal((await metrics(edge.http)).relay_store_events, 11)
  await client.close()
  await edge.evict()
  let seen
  for (let tries = 0; tries < 60; tries++) {
    seen = await metrics(edge.http)
    if (seen.relay_store_events === 1) break
    await sleep(250)
  }
  assert.equal(seen.relay_store_events, 1)
  assert.equal(seen.relay_events_expired_total, 10)
  await edge.stop()
})

test('events older than the retention are removed', async () => {
  const edge = await startEdge({ config: { store: { retention_seconds: 3_600, sweep_seconds: 1 } } })
  const client = await Client.open(edge.url)
  const old = { created_at: now() - 7_200 }
  await client.publish(sign({ ...old, kind: 0 }))
  // The alarm for the expiring event also runs the retention sweep.
  await client.publish(sign({ tags: [['expiration', String(now() + 2)]] }))
  await client.publish(sign(old))
  await client.publish(sign())
  let seen
  for (let tries = 0; tries < 60; tries++) {
    seen = await metrics(edge.http)
    if (seen.relay_store_events === 2) break
    await sleep(250)
  }
  assert.equal(seen.relay_store_events, 2)
  assert.equal(seen.relay_events_removed_by_retention_total, 1)
  await client.close()
  await edge.stop()
})
