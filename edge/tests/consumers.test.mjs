// Consumers of streams: another Durable Object receives matching events, at least once and in order.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client, sign, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

// Stores what it receives; refuses as many batches as it was asked to.
const main = `
import relay from './index.js'
export * from './index.js'
export class Consumer {
  constructor(state) { this.storage = state.storage }
  async fetch(request) {
    const url = new URL(request.url)
    if (url.pathname === '/seen') return Response.json((await this.storage.get('seen')) ?? [])
    if (url.pathname === '/refuse') {
      await this.storage.put('refuse', Number(url.searchParams.get('times')))
      return new Response('ok')
    }
    const refuse = (await this.storage.get('refuse')) ?? 0
    if (refuse > 0) {
      await this.storage.put('refuse', refuse - 1)
      return new Response('not now', { status: 503 })
    }
    const lines = (await request.text()).trim().split('\\n').map(line => JSON.parse(line))
    const seen = (await this.storage.get('seen')) ?? []
    await this.storage.put('seen', [...seen, ...lines.map(line => ({ seq: line.seq, id: line.event.id }))])
    return new Response('ok')
  }
}
export default relay
`

const filters = [{ kinds: [5050] }, { kinds: [20050] }]
const config = { consumers: [{ binding: 'CONSUMER', object: 'one', filters }] }
const objects = { CONSUMER: { className: 'Consumer', useSQLite: true } }

async function start() {
  const edge = await startEdge({ config, main, objects })
  const namespace = await edge.miniflare.getDurableObjectNamespace('CONSUMER')
  const stub = namespace.get(namespace.idFromName('one'))
  const ask = async path => (await stub.fetch(`https://consumer${path}`)).text()
  const seen = async () => JSON.parse(await ask('/seen'))
  /** What it has received, once there are `count` events. */
  const wait = async count => {
    let list
    for (let tries = 0; tries < 200; tries++) {
      list = await seen()
      if (list.length >= count) break
      await sleep(50)
    }
    return list
  }
  return { edge, ask, seen, wait }
}

test('a consumer receives matching stored and ephemeral events', async () => {
  const { edge, wait } = await start()
  const client = await Client.open(edge.url)
  const jobs = [1, 2, 3].map(n => sign({ kind: 5050, content: `job ${n}` }))
  await client.publish(sign())
  for (const job of jobs) await client.publish(job)
  const stored = await wait(3)
  assert.deepEqual(stored.map(({ id }) => id), jobs.map(({ id }) => id))
  assert.ok(stored.every(({ seq }, n) => n === 0 || seq > stored[n - 1].seq), 'sequence numbers rise')
  const beat = sign({ kind: 20050 })
  await client.publish(beat)
  assert.deepEqual((await wait(4))[3], { seq: null, id: beat.id })
  await client.close()
  await edge.stop()
})

test('refused batches are sent again, and an evicted object resumes after the confirmed event', async () => {
  const { edge, ask, wait, seen } = await start()
  const client = await Client.open(edge.url)
  await client.publish(sign({ kind: 5050, content: 'before' }))
  await wait(1)
  await ask('/refuse?times=2')
  const refused = sign({ kind: 5050, content: 'refused at first' })
  await client.publish(refused)
  // No client is connected while the batch is retried.
  await client.close()
  assert.equal((await wait(2))[1].id, refused.id)
  await edge.evict()
  const again = await Client.open(edge.url)
  const after = sign({ kind: 5050, content: 'after' })
  await again.publish(after)
  const list = await wait(3)
  assert.deepEqual(list.map(({ id }) => id).slice(1), [refused.id, after.id])
  await sleep(300)
  assert.equal((await seen()).length, 3, 'confirmed events are not sent again')
  await again.close()
  await edge.stop()
})
