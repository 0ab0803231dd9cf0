// Sets of events compared with the relay (NIP-77) by clients that others wrote: nostr-tools, applesauce-relay, Welshman, and
// nostr-sdk for Python. A proxy writes down what is said, because some of them ask otherwise, or give up, in silence.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { diff, Pool, pull, push } from '@welshman/net'
import { Relay as ApplesauceRelay, SyncDirection } from 'applesauce-relay'
import { nip77 } from 'nostr-tools'
import { Relay, useWebSocketImplementation } from 'nostr-tools/relay'
import { WebSocket } from 'ws'
import { startRecording } from './recording.mjs'
import { author, idsOf, root, startRelay, within } from './relay.mjs'

useWebSocketImplementation(WebSocket)
// Where there is none, Welshman takes the global crypto, which is the browser's, for Node's module.
globalThis.window ??= globalThis

let server, relay
before(async () => {
  server = await startRelay()
  relay = await Relay.connect(server.url)
})
after(async () => {
  relay.close()
  await server.stop()
})

const sorted = ids => [...ids].sort()

/** An author whose first `common` events both have; the relay has `theirs` more, the client `ours` more. */
async function sets({ common, theirs, ours }) {
  const { pubkey, sign } = author()
  const events = Array.from({ length: common + theirs + ours }, () => sign())
  // Neither the oldest nor the newest in a row.
  const [both, onlyTheirs, onlyOurs] = [[], [], []]
  events.forEach((event, i) => {
    if (i % 3 === 1 && onlyTheirs.length < theirs) onlyTheirs.push(event)
    else if (i % 3 === 2 && onlyOurs.length < ours) onlyOurs.push(event)
    else if (both.length < common) both.push(event)
    else (onlyTheirs.length < theirs ? onlyTheirs : onlyOurs).push(event)
  })
  for (const event of [...both, ...onlyTheirs]) await relay.publish(event)
  return { pubkey, filter: { authors: [pubkey] }, both, onlyTheirs, onlyOurs, mine: [...both, ...onlyOurs] }
}

/** Asserts that sets were compared, and how often. */
function assertCompared(recording, { sessions = 1 } = {}) {
  const opened = recording.sent.filter(([type]) => type === 'NEG-OPEN')
  assert.equal(opened.length, sessions)
  assert.ok(recording.received.some(([type, id]) => type === 'NEG-MSG' && id === opened[0][1]))
  assert.deepEqual(recording.received.filter(([type]) => type === 'NEG-ERR'), [])
}

const stored = async filter => {
  const events = []
  await new Promise(resolve => relay.subscribe([filter], { onevent: event => events.push(event), oneose: resolve }))
  return sorted(idsOf(events))
}

const sizes = { common: 300, theirs: 41, ours: 17 }

test('nostr-tools learns what the relay lacks and what it lacks itself', async t => {
  for (const size of [sizes, { common: 50, theirs: 0, ours: 0 }, { common: 0, theirs: 20, ours: 0 }, { common: 0, theirs: 0, ours: 20 }]) {
    const recording = await startRecording(server.url)
    t.after(() => recording.stop())
    const { filter, onlyTheirs, onlyOurs, mine } = await sets(size)
    const client = await Relay.connect(recording.url)
    const storage = new nip77.NegentropyStorageVector()
    for (const event of mine) storage.insert(event.created_at, event.id)
    storage.seal()
    const [have, need] = [[], []]
    await within('the comparison', new Promise((resolve, reject) => {
      const onclose = reason => (reason ? reject(new Error(reason)) : resolve())
      const sync = new nip77.NegentropySync(client, storage, filter, { onhave: id => have.push(id), onneed: id => need.push(id), onclose })
      sync.start()
    }))
    assert.deepEqual([sorted(have), sorted(need)], [sorted(idsOf(onlyOurs)), sorted(idsOf(onlyTheirs))])
    assertCompared(recording)
    client.close()
  }
})

test('applesauce-relay fetches what it lacks and sends what the relay lacks', async t => {
  const recording = await startRecording(server.url)
  t.after(() => recording.stop())
  const { filter, both, onlyTheirs, onlyOurs, mine } = await sets(sizes)
  const client = new ApplesauceRelay(recording.url)
  t.after(() => client.close())
  const got = []
  await within('the sync', new Promise((resolve, reject) => {
    const done = { next: event => got.push(event), complete: resolve, error: reject }
    client.sync(mine, filter, SyncDirection.SEND | SyncDirection.RECEIVE).subscribe(done)
  }))
  assert.deepEqual(sorted(idsOf(got)), sorted(idsOf(onlyTheirs)))
  assert.deepEqual(await stored(filter), sorted(idsOf([...both, ...onlyTheirs, ...onlyOurs])))
  assertCompared(recording)
})

test('Welshman pulls and pushes', async t => {
  const recording = await startRecording(server.url)
  t.after(() => recording.stop())
  const { filter, both, onlyTheirs, onlyOurs, mine } = await sets(sizes)
  const context = { pool: new Pool() }
  t.after(() => context.pool.clear())
  const options = { relays: [recording.url], filters: [filter], events: mine, context }
  const [found] = await within('diff', diff(options))
  assert.deepEqual([sorted(found.have), sorted(found.need)], [sorted(idsOf(onlyOurs)), sorted(idsOf(onlyTheirs))])
  const pulled = await within('pull', pull(options))
  assert.deepEqual(sorted(idsOf(pulled)), sorted(idsOf(onlyTheirs)))
  await within('push', push(options))
  assert.deepEqual(await stored(filter), sorted(idsOf([...both, ...onlyTheirs, ...onlyOurs])))
  assertCompared(recording, { sessions: 3 })
})

test('nostr-sdk for Python syncs both ways', async t => {
  const recording = await startRecording(server.url)
  t.after(() => recording.stop())
  const { filter, both, onlyTheirs, onlyOurs, mine } = await sets(sizes)
  const python = join(root, 'target', 'clients', 'bin', 'python')
  const child = spawn(python, ['nostr_sdk_sync.py', recording.url, filter.authors[0]], { cwd: import.meta.dirname })
  let [output, errors] = ['', '']
  child.stdout.on('data', chunk => (output += chunk))
  child.stderr.on('data', chunk => (errors += chunk))
  child.stdin.end(JSON.stringify(mine))
  const code = await new Promise((resolve, reject) => child.on('exit', resolve).on('error', reject))
  assert.equal(code, 0, errors)
  const { received, sent } = JSON.parse(output)
  assert.deepEqual(sorted(received), sorted(idsOf(onlyTheirs)))
  assert.deepEqual(sorted(sent), sorted(idsOf(onlyOurs)))
  assert.deepEqual(await stored(filter), sorted(idsOf([...both, ...onlyTheirs, ...onlyOurs])))
  assertCompared(recording)
})
