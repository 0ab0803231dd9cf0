// Consumers of streams: a Durable Object of somebody else's is handed what matches, at least once and in order.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client, sign, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

// Keeps what it is handed; refuses as often as it was told to.
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
  /** What it has seen, once that are so many. */
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

test('a consumer is handed stored and ephemeral events that match', async () => {
  const { edge, wait } = await start()
  const client = await Client.open(edge.url)
  const jobs = [1, 2, 3].map(n => sign({ kind: 5050, content: `job ${n}` }))
  await client.publish(sign())
  for (const job of jobs) await client.publish(job)
  const stored = await wait(3)
  assert.deepEqual(stored.map(({ id }) => id), jobs.map(({ id }) => id))
  assert.ok(stored.every(({ seq }, n) => n === 0 || seq > stored[n - 1].seq), 'numbers rise')
  const beat = sign({ kind: 20050 })
  await client.publish(beat)
  assert.deepEqual((await wait(4))[3], { seq: null, id: beat.id })
  await client.close()
  await edge.stop()
})

test('what a consumer refuses is sent again, and an evicted object goes on where it was', async () => {
  const { edge, ask, wait, seen } = await start()
  const client = await Client.open(edge.url)
  await client.publish(sign({ kind: 5050, content: 'before' }))
  await wait(1)
  await ask('/refuse?times=2')
  const refused = sign({ kind: 5050, content: 'refused at first' })
  await client.publish(refused)
  // Nobody is connected while it is tried again.
  await client.close()
  assert.equal((await wait(2))[1].id, refused.id)
  await edge.evict()
  const again = await Client.open(edge.url)
  const after = sign({ kind: 5050, content: 'after' })
  await again.publish(after)
  const list = await wait(3)
  assert.deepEqual(list.map(({ id }) => id).slice(1), [refused.id, after.id])
  await sleep(300)
  assert.equal((await seen()).length, 3, 'what was taken is not sent again')
  await again.close()
  await edge.stop()
})
