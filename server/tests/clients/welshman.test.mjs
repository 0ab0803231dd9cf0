// Tests with Welshman (Coracle, Flotilla). Without a signer it ignores every EOSE while a challenge is pending.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { AuthStatus, defaultSocketPolicies, makeLoader, makeSocketPolicyAuth, Pool, publishOne } from '@welshman/net'
import { PublishStatus, request, Socket, SocketEvent } from '@welshman/net'
import { author, idsOf, PATIENCE_MS, startRelay, until, within } from './relay.mjs'

const { pubkey, sign } = author()

let server, pool, context, socket
const received = []
before(async () => {
  server = await startRelay()
  pool = new Pool()
  context = { pool }
  socket = pool.get(server.url)
  socket.on(SocketEvent.Receive, message => received.push(message))
})
after(async () => {
  pool.clear()
  await server.stop()
})

const publish = async (event, given = context) => {
  const result = await within('OK', publishOne({ relay: server.url, event, context: given, timeout: 4 * PATIENCE_MS }))
  return [result.status, result.detail]
}

test('Welshman: what is published is found, and nothing else', async () => {
  const notes = Array.from({ length: 10 }, () => sign({ tags: [['t', 'welsh']] }))
  for (const result of await Promise.all(notes.map(note => publish(note)))) assert.deepEqual(result, [PublishStatus.Success, ''])
  const ask = filters => within('EOSE', request({ relays: [server.url], filters, context, autoClose: true }))
  assert.deepEqual(idsOf(await ask([{ authors: [pubkey], kinds: [1] }])), idsOf(notes.toReversed()))
  assert.deepEqual(await ask([{ authors: [pubkey], kinds: [3] }]), [])
  const load = makeLoader({ delay: 50, timeout: 4 * PATIENCE_MS, context })
  const loaded = await within('loading', load({ relays: [server.url], filters: [{ '#t': ['welsh'], authors: [pubkey] }] }))
  assert.deepEqual(idsOf(loaded), idsOf(notes.toReversed()))
  const forged = { ...sign({ content: 'true' }), content: 'false' }
  const [status, message] = await publish(forged)
  assert.equal(status, PublishStatus.Failure)
  assert.match(message, /^invalid:/)
})

test('Welshman: a live subscription gets what another connection publishes', async () => {
  const other = { pool: new Pool() }
  const seen = []
  const stop = new AbortController()
  let running
  const eose = new Promise(onEose => {
    const filters = [{ authors: [pubkey], kinds: [1111] }]
    const onEvent = event => seen.push(event.id)
    running = request({ relays: [server.url], filters, context, signal: stop.signal, onEvent, onEose })
  })
  await within('EOSE', eose)
  const comments = Array.from({ length: 5 }, () => sign({ kind: 1111 }))
  for (const comment of comments) assert.deepEqual(await publish(comment, other), [PublishStatus.Success, ''])
  await until('all live events', () => seen.length >= comments.length)
  stop.abort()
  assert.deepEqual(seen, idsOf(comments))
  assert.deepEqual(idsOf(await within('the end', running)), idsOf(comments))
  other.pool.clear()
})

test('Welshman: nothing of it needed AUTH, so nothing asked for it', () => {
  assert.equal(socket.auth.status, AuthStatus.None)
  assert.deepEqual(received.filter(message => ['AUTH', 'NOTICE'].includes(message[0])), [])
})

test('Welshman: with a signer it gets what needs AUTH', async () => {
  const policies = [...defaultSocketPolicies, makeSocketPolicyAuth({ sign: async template => sign(template) })]
  const own = { pool: new Pool({ makeSocket: url => new Socket(url, policies) }) }
  const mail = author().sign({ kind: 1059, tags: [['p', pubkey]] })
  assert.deepEqual(await publish(mail), [PublishStatus.Success, ''])
  const filters = [{ kinds: [1059], '#p': [pubkey] }]
  const found = request({ relays: [server.url], filters, context: own, autoClose: true })
  assert.deepEqual(idsOf(await within('EOSE', found)), [mail.id])
  own.pool.clear()
  assert.deepEqual(await publish(sign({ tags: [['-']] }), own), [PublishStatus.Success, ''])
  own.pool.clear()
})
