// The cost of a start: CPU of a fresh process up to the first stored event, compared with a Worker that does almost nothing.
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Client, sign } from './client.mjs'
import { startWorkerd } from './host.mjs'

/** A Worker that only uses the platform: a page, a socket, a row and an OK. */
const nothing = `
import { DurableObject } from 'cloudflare:workers'
import module from './index_bg.wasm'
new WebAssembly.Instance(module)
export class AgentDurableObject extends DurableObject {}
export class MarketDurableObject extends DurableObject {}
export class RelayDurableObject extends DurableObject {
  fetch() {
    const [client, server] = Object.values(new WebSocketPair())
    this.ctx.acceptWebSocket(server)
    return new Response(null, { status: 101, webSocket: client })
  }
  webSocketMessage(socket, text) {
    const { id } = JSON.parse(text)[1]
    this.ctx.storage.sql.exec('CREATE TABLE events (id TEXT)')
    this.ctx.storage.sql.exec('INSERT INTO events VALUES (?)', id)
    socket.send(JSON.stringify(['OK', id, true, '']))
  }
}
export default {
  fetch: (request, env) => request.headers.get('upgrade') ? env.RELAY.getByName('relay-0000').fetch(request) : new Response('{}'),
}`

/** CPU time of all threads of a process, in milliseconds. */
function cpu(pid) {
  const threads = readdirSync(`/proc/${pid}/task`)
  const spent = threads.map(thread => Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]))
  return spent.reduce((sum, ns) => sum + ns, 0) / 1e6
}

/** CPU of a fresh workerd until it listens, until its first answer, until its first stored event; each from the start. */
async function cold(folder) {
  const relay = await startWorkerd({ folder })
  try {
    const listening = cpu(relay.pid)
    await (await fetch(relay.http, { headers: { accept: 'application/nostr+json' } })).json()
    const page = cpu(relay.pid)
    const client = await Client.open(relay.url)
    assert.deepEqual(await client.publish(sign()), [true, ''])
    const stored = cpu(relay.pid)
    client.socket.terminate()
    return { listening, page, stored }
  } finally {
    await relay.stop()
  }
}

const least = runs => Object.fromEntries(Object.keys(runs[0]).map(key => [key, Math.min(...runs.map(run => run[key]))]))
const skip = process.platform !== 'linux' && 'it reads /proc'

test('compiling, starting and storing a first event cost a few times what workerd costs itself', { skip }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'relay-edge-nothing-'))
  writeFileSync(join(folder, 'index.js'), nothing)
  writeFileSync(join(folder, 'index_bg.wasm'), Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0))
  const [ours, theirs] = [[], []]
  // Alternating, and the minimum of each: other load on the machine can only add.
  for (let round = 0; round < 4; round++) {
    ours.push(await cold())
    theirs.push(await cold(folder))
  }
  rmSync(folder, { recursive: true })
  const [relay, platform] = [least(ours), least(theirs)]
  const own = relay.stored - platform.stored
  const shown = ({ listening, page, stored }) => [listening, page, stored].map(ms => ms.toFixed(0)).join(' / ')
  console.log(`ms of CPU until listening / a page / a stored event: relay ${shown(relay)}, nothing ${shown(platform)}`)
  console.log(`the relay's own part is ${(own / platform.stored).toFixed(2)} of what workerd costs itself`)
  // 5.6 with 8.4 MB of wasm (260 ms of CPU, most of it to compile); 1.8 with the relay alone. The platform gives a start a second.
  assert.ok(own < 10 * platform.stored, `${own.toFixed(0)} ms beside ${platform.stored.toFixed(0)} ms`)
})
