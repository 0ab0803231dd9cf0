// A relay and a thousand awake agents in one workerd: all objects share one isolate, and on the platform that has 128 MB.
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { deploy, vars } from './agents_client.mjs'
import { Client, generateSecretKey, metrics, sign } from './client.mjs'
import { startEdge } from './host.mjs'

const AGENTS = 1_000
/** What JavaScript's heap and the runtime may have is not measured; a quarter is left for them. */
const MEMORY_BYTES_MAX = 96 << 20

/** A program that keeps its callers until it is told to answer. */
const held = []
let isHolding = true
const respond = response =>
  response.setHeader('content-type', 'application/json').end(JSON.stringify({ content: 'done' }))
const hook = createServer(async (message, response) => {
  await message.toArray()
  if (isHolding) held.push(response)
  else respond(response)
})

let edge, client
/** In memory where that is possible: it is not storage that is measured. */
const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'relay-awake-'))
before(async () => {
  await new Promise(done => hook.listen(0, '127.0.0.1', done))
  const config = { agents: { allow_private_hosts: [`127.0.0.1:${hook.address().port}`], agents_max: AGENTS } }
  edge = await startEdge({ vars, config, persist: folder })
  client = await Client.open(edge.url)
})
after(async () => {
  hook.closeAllConnections()
  hook.close()
  await client.close()
  await edge.stop()
  rmSync(folder, { recursive: true, force: true })
})

const memory = async what => {
  const { relay_memory_bytes: reserved, relay_memory_used_bytes: used } = await metrics(edge.http)
  console.log(`${what}: ${(used / 1e6).toFixed(1)} MB used, ${(reserved / 1e6).toFixed(1)} MB of WebAssembly memory`)
  assert.ok(reserved < MEMORY_BYTES_MAX, `${reserved} bytes`)
}

/** Calls `work` for each of `items`, so many at a time. */
async function all(items, width, work) {
  const rest = items.entries()
  await Promise.all(Array.from({ length: width }, async () => {
    for (const [at, item] of rest) await work(item, at)
  }))
}

async function until(isSo, what) {
  for (let tries = 0; !isSo(); tries++) {
    assert.ok(tries < 1_200, what())
    await new Promise(done => setTimeout(done, 50))
  }
}

/** All agents, and the results that they have published. */
const agents = []
const results = new Map()

const ask = (who, input) => {
  const customer = generateSecretKey()
  return all(who, 64, async agent => {
    const job = sign({ kind: 5050, tags: [['p', agent.pubkey], ['i', input, 'text']], content: '' }, customer)
    assert.deepEqual(await client.publish(job), [true, ''])
  })
}

const answerAll = () => {
  isHolding = false
  held.splice(0).forEach(respond)
}

test('a relay and a thousand awake agents share an isolate', async () => {
  const url = `http://127.0.0.1:${hook.address().port}/`
  await all(Array(AGENTS).fill(), 64, async (_, at) => {
    const handlers = [{ kind: 5050, executor: 'webhook', config: { url } }]
    agents[at] = await deploy(edge, { name: `agent ${at}`, handlers, announce: false })
  })
  await memory('deployed')
  client.socket.on('message', data => {
    const [verb, , event] = JSON.parse(data)
    if (verb === 'EVENT' && event.kind === 6050) results.set(event.pubkey, event.content)
  })
  client.send('REQ', 'results', { kinds: [6050], limit: 0 })
  await ask(agents, 'work')
  await until(() => held.length === AGENTS, () => `${held.length} agents work`)
  await memory('all of them work')
  answerAll()
  await until(() => results.size === AGENTS, () => `${results.size} results`)
  await memory('all have answered')
})

test('jobs that are too large for all to be worked on wait for each other', async () => {
  const some = agents.slice(0, 400)
  isHolding = true
  results.clear()
  await ask(some, 'x'.repeat(50_000))
  let before = -1
  while (held.length > before) {
    before = held.length
    await new Promise(done => setTimeout(done, 1_000))
  }
  await memory(`${held.length} work, the others wait`)
  assert.ok(held.length < some.length)
  answerAll()
  await until(() => results.size === some.length, () => `${results.size} results`)
  await memory('all have answered')
})
