// Tests with Nostrify (Ditto, and apps made with MKStack). Its schemas accept messages of exact lengths.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { makeAuthEvent } from 'nostr-tools/nip42'
import { author, idsOf, startRelay, within } from './relay.mjs'

// Imported after relay.mjs, which sets globalThis.WebSocket if it is missing.
const { NRelay1 } = await import('@nostrify/nostrify')

const { pubkey, sign } = author()
const complaints = []
const log = entry => ['warn', 'error', 'fatal', 'critical'].includes(entry.level) && complaints.push(entry)
const open = (options = {}) => new NRelay1(server.url, { log, backoff: false, ...options })

let server, relay
before(async () => {
  server = await startRelay()
  relay = open()
})
after(async () => {
  await relay.close()
  await server.stop()
  assert.deepEqual(complaints, [])
})

test('Nostrify: what is published is found, counted, and nothing else', async () => {
  const notes = Array.from({ length: 4 }, () => sign({ tags: [['t', 'nostrified']] }))
  for (const note of notes) await within('OK', relay.event(note))
  const filters = [{ authors: [pubkey], kinds: [1] }]
  assert.deepEqual(idsOf(await within('the answer', relay.query(filters))), idsOf(notes.toReversed()))
  assert.deepEqual(await within('an empty answer', relay.query([{ authors: [pubkey], kinds: [3] }])), [])
  assert.equal((await within('the count', relay.count(filters))).count, 4)
  const forged = { ...sign({ content: 'true' }), content: 'false' }
  await assert.rejects(within('a refusal', relay.event(forged)), /^Error: invalid:/)
})

test('Nostrify: a live subscription gets what another connection publishes', async () => {
  const other = open()
  const live = relay.req([{ authors: [pubkey], kinds: [1111] }])
  assert.equal((await within('EOSE', live.next())).value[0], 'EOSE')
  for (let i = 0; i < 5; i++) {
    const comment = sign({ kind: 1111 })
    await within('OK', other.event(comment))
    const [type, , event] = (await within('a live event', live.next())).value
    assert.deepEqual([type, event.id], ['EVENT', comment.id])
  }
  await live.return()
  await other.close()
})

// It answers a challenge when it receives it, and repeats the REQ after `auth-required:`, which must therefore come second.
test('Nostrify: with a signer it gets what needs AUTH', async () => {
  const auth = async challenge => sign(makeAuthEvent(server.url, challenge))
  const mail = author().sign({ kind: 1059, tags: [['p', pubkey]] })
  await within('OK', relay.event(mail))
  const [reading, writing] = [open({ auth }), open({ auth })]
  const found = await within('the answer', reading.query([{ kinds: [1059], '#p': [pubkey] }]))
  assert.deepEqual(idsOf(found), [mail.id])
  await within('OK', writing.event(sign({ tags: [['-']] })))
  await Promise.all([reading.close(), writing.close()])
})

test('Nostrify: the relay information document is as it expects', async () => {
  const info = await within('the document', relay.getRelayInfo())
  assert.ok(info.supported_nips.includes(1))
})
